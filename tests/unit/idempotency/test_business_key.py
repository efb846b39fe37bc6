"""What makes two business keys the same, and what is no key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.errors import InvalidMessageError
from pillarbox.idempotency.business_key import ROW_PREFIX, row_of
from pillarbox.message.names import check_message_id

TYPE = "payment.received"
BERN = timezone(timedelta(hours=2))


class Kind(Enum):
    """A kind of payment."""

    CARD = "card"


@dataclass(frozen=True)
class Weird:
    """Something whose text nobody can compare."""


keys = st.recursive(
    st.text(min_size=1) | st.integers() | st.booleans() | st.uuids() | st.dates() | st.binary(min_size=1),
    lambda part: st.lists(part, min_size=1, max_size=3).map(tuple),
    max_leaves=6,
)


@given(keys)
def test_a_row_fits_the_inbox_and_no_message_id_is_like_it(value: object) -> None:
    row = row_of(TYPE, value)

    assert row.startswith(ROW_PREFIX)
    assert len(row) == len(ROW_PREFIX) + 64
    with pytest.raises(InvalidMessageError, match="space"):
        check_message_id(row, message_type=TYPE)


@given(keys, keys)
def test_what_differs_has_different_rows(one: object, other: object) -> None:
    def text(value: object) -> object:
        if isinstance(value, tuple):
            return [text(part) for part in value]
        return ("text", str(value)) if isinstance(value, (str, UUID)) else (type(value), value)

    assert (row_of(TYPE, one) == row_of(TYPE, other)) == (text(one) == text(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (UUID(int=7), str(UUID(int=7))),
        (Kind.CARD, "card"),
        (Decimal("1.50"), Decimal("1.5")),
        (Decimal("-0.0"), Decimal(0)),
        (Decimal("1E+2"), Decimal(100)),
        (datetime(2031, 5, 17, 10, tzinfo=BERN), datetime(2031, 5, 17, 8, tzinfo=UTC)),
        (["a", 1], ("a", 1)),
    ],
)
def test_what_means_the_same_has_the_same_row(one: object, other: object) -> None:
    assert row_of(TYPE, one) == row_of(TYPE, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("p-1", "P-1"),
        ("p-1", "p-1 "),
        ("7", 7),
        (True, 1),
        ("caf\u00e9", "cafe\u0301"),
        (("a", "b"), "ab"),
        ((("a",), "b"), ("a", ("b",))),
        ("a,b", ("a", "b")),
        (date(2031, 5, 17), "2031-05-17"),
        (Decimal("1" + "0" * 39 + "1"), Decimal("1" + "0" * 40)),
        (b"a", "a"),
    ],
)
def test_what_only_looks_alike_has_not(one: object, other: object) -> None:
    assert row_of(TYPE, one) != row_of(TYPE, other)


def test_the_same_key_of_another_message_type_is_another_fact() -> None:
    assert row_of(TYPE, "p-1") != row_of("payment.refunded", "p-1")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "None"),
        ("", "empty"),
        (b"", "empty"),
        ((), "empty"),
        (("a", None), "None"),
        (1.5, "float"),
        (Decimal("NaN"), "Decimal"),
        (datetime(2031, 5, 17), "time zone"),  # noqa: DTZ001  # that is the point
        ({"a": 1}, "dict"),
        (Weird(), "Weird"),
    ],
)
def test_what_cannot_be_compared_is_refused(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        row_of(TYPE, value)
