from __future__ import annotations

import pytest

from pillarbox.errors import ConfigurationError
from pillarbox.relay import LogSettings


@pytest.mark.parametrize(
    ("first", "second"),
    [("shop", "stock"), ("shop", "Shop"), ("a-b", "a_b"), ("x" * 63, "x" * 62), ("größe", "gr__e")],
)
def test_two_databases_of_a_cluster_have_two_slots(first: str, second: str) -> None:
    names = {LogSettings().slot_in(first), LogSettings().slot_in(second)}

    assert len(names) == 2
    assert all(len(name) <= 63 and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_") for name in names)


def test_a_slot_that_is_named_keeps_its_name() -> None:
    assert LogSettings(slot="mine").slot_in("shop") == "mine"


@pytest.mark.parametrize("slot", ["", "Upper", "with-dash", 'quo"te', "x" * 64, "a b"])
def test_a_slot_name_that_the_database_would_refuse_is_refused(slot: str) -> None:
    with pytest.raises(ConfigurationError, match="slot"):
        LogSettings(slot=slot)


@pytest.mark.parametrize("publication", ["", "Upper", "1st", 'x"; DROP TABLE orders', "x" * 64])
def test_a_publication_name_that_would_have_to_be_quoted_is_refused(publication: str) -> None:
    with pytest.raises(ConfigurationError, match="publication"):
        LogSettings(publication=publication)
