"""Rules of the registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from pillarbox.errors import ConfigurationError, DuplicateTypeError, UnknownMessageTypeError
from pillarbox.message import Registry, event, message_type_of


@event("order.placed")
@dataclass
class First:
    a: int


@event("order.placed", version=3)
@dataclass
class Third:
    a: int


@event("order.placed")
@dataclass
class Impostor:
    a: int


def _same(body: dict[str, Any]) -> dict[str, Any]:
    return body


def test_types_are_found_by_class_by_version_and_as_the_newest() -> None:
    registry = Registry()
    registry.register(First, Third)

    assert registry.by_class(First) is message_type_of(First)
    assert registry.by_version("order.placed", 1).python_type is First
    assert registry.newest("order.placed").python_type is Third
    assert [one.version for one in registry.types()] == [1, 3]


def test_the_same_class_may_be_registered_again() -> None:
    registry = Registry()
    registry.register(First)
    registry.register(First, First)

    assert len(registry.types()) == 1


def test_two_classes_of_one_name_and_version_are_refused_and_nothing_is_added() -> None:
    registry = Registry()

    with pytest.raises(DuplicateTypeError) as caught:
        registry.register(First, Impostor)

    assert caught.value.message_type == "order.placed"
    assert registry.types() == ()


def test_boxes_do_not_know_each_others_types() -> None:
    registry = Registry()

    assert First not in registry
    with pytest.raises(UnknownMessageTypeError):
        registry.by_class(First)


def test_unknown_names_and_versions_are_errors() -> None:
    registry = Registry()
    registry.register(First)

    with pytest.raises(UnknownMessageTypeError) as caught:
        registry.by_version("order.placed", 2)
    assert caught.value.version == 2
    with pytest.raises(UnknownMessageTypeError) as caught:
        registry.newest("order.lost", asked_version=5)
    assert (caught.value.message_type, caught.value.version) == ("order.lost", 5)


def test_an_undeclared_class_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not declared"):
        Registry().register(int)


def test_a_gap_in_the_upcasters_is_reported() -> None:
    registry = Registry()
    registry.register(Third, upcasters={1: _same})

    assert registry.missing_upcasters() == (("order.placed", 2),)
    registry.register(Third, upcasters={2: _same})
    assert registry.missing_upcasters() == ()


@pytest.mark.parametrize("version", [0, 3, 4])
def test_an_upcaster_that_leads_nowhere_is_refused(version: int) -> None:
    with pytest.raises(ConfigurationError, match="leads nowhere"):
        Registry().register(Third, upcasters={version: _same})


def test_upcasters_belong_to_one_class() -> None:
    with pytest.raises(ConfigurationError, match="call of its own"):
        Registry().register(First, Third, upcasters={1: _same})


def test_two_upcasters_from_one_version_are_refused() -> None:
    registry = Registry()
    registry.register(Third, upcasters={1: _same})

    with pytest.raises(ConfigurationError, match="two upcasters"):
        registry.register(Third, upcasters={1: lambda body: body})


@event("meter.read", key="a", numbered=True)
@dataclass
class Read:
    a: str


@event("meter.reset", key="a")
@dataclass
class Reset:
    a: str


@pytest.mark.parametrize("types", [(Read, Reset), (Reset, Read)])
def test_types_of_one_destination_are_all_numbered_or_none(types: tuple[type, ...]) -> None:
    registry = Registry()
    registry.register(types[0])

    with pytest.raises(ConfigurationError, match=r"'meter.read' is numbered and 'meter.reset' is not.*'topic:meter'"):
        registry.register(types[1])
    assert types[1] not in registry


def test_upcasters_are_a_mapping() -> None:
    upcasters: Any = 3

    with pytest.raises(ConfigurationError, match="upcasters must be a mapping, or None, got 3"):
        Registry().register(First, upcasters=upcasters)
