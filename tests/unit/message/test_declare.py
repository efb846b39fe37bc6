"""Rules of ``@event`` and ``@command``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel

from pillarbox.errors import ConfigurationError, InvalidMessageError, MissingKeyError
from pillarbox.message import command, event, key_of, message_type_of


class Region(StrEnum):
    NORTH = "north"


class Priority(IntEnum):
    HIGH = 3


@event("order.placed", key="order_id")
@dataclass(frozen=True, slots=True)
class OrderPlaced:
    order_id: object
    total_cents: int = 0


@command("payment.charge", queue="payments", key="order_id", version=2)
class ChargePayment(msgspec.Struct, frozen=True):
    order_id: str


@event("stock.reserved", topic="warehouse", key=lambda m: f"{m.site}/{m.sku}")
class StockReserved(BaseModel):
    site: str
    sku: int


@event("clock.ticked")
@dataclass
class Ticked:
    at: int


def test_an_event_goes_to_the_topic_before_the_first_dot() -> None:
    declared = message_type_of(OrderPlaced)

    assert (declared.name, declared.version, declared.kind) == ("order.placed", 1, "event")
    assert (declared.destination, declared.key_field) == ("topic:order", "order_id")
    assert declared.python_type is OrderPlaced


def test_a_command_goes_to_its_queue() -> None:
    declared = message_type_of(ChargePayment)

    assert (declared.kind, declared.destination, declared.version) == ("command", "queue:payments", 2)


def test_a_topic_can_be_named() -> None:
    assert message_type_of(StockReserved).destination == "topic:warehouse"


def test_a_declared_class_stays_itself() -> None:
    assert OrderPlaced("o-1").total_cents == 0
    assert OrderPlaced.__name__ == "OrderPlaced"


def test_a_subclass_is_not_declared_in_silence() -> None:
    class Special(OrderPlaced):
        pass

    with pytest.raises(ConfigurationError, match="not declared as a message"):
        message_type_of(Special)


def test_a_plain_class_is_no_message() -> None:
    with pytest.raises(ConfigurationError, match="put @event"):
        message_type_of(int)


def test_a_class_that_is_no_model_is_refused_at_decoration() -> None:
    with pytest.raises(ConfigurationError, match="above @dataclass"):
        event("a.b")(type("Plain", (), {}))


def test_a_class_is_declared_once() -> None:
    with pytest.raises(ConfigurationError, match="declared twice"):
        event("order.placed.again")(OrderPlaced)


def test_a_class_made_anew_after_its_declaration_is_refused() -> None:
    @dataclass
    class Draft:
        a: int

    made_anew = dataclass(slots=True)(event("draft.saved")(Draft))

    with pytest.raises(ConfigurationError, match="above every other decorator"):
        message_type_of(made_anew)


@pytest.mark.parametrize("cls", [OrderPlaced, ChargePayment, StockReserved])
def test_a_key_that_names_no_field_is_refused_at_decoration(cls: type[object]) -> None:
    copy = type(cls.__name__, (cls,), {})

    with pytest.raises(ConfigurationError, match="is no field of"):
        event("a.b", key="nowhere")(copy)


def test_a_key_that_is_neither_name_nor_function_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="takes the name of a field"):
        event("a.b", key=3)(type("Copy", (OrderPlaced,), {}))  # type: ignore[arg-type]  # the rule under test


def test_a_property_can_be_the_key() -> None:
    @event("pair.made", key="both")
    @dataclass
    class Pair:
        left: str
        right: str

        @property
        def both(self) -> str:
            return self.left + self.right

    assert key_of(Pair("a", "b")) == "ab"


@pytest.mark.parametrize("version", [0, -1, True, "1", 1.5, float("nan")])
def test_a_version_is_a_whole_number_from_one(version: Any) -> None:
    with pytest.raises(ConfigurationError, match="whole number of at least 1"):
        event("a.b", version=version)


@pytest.mark.parametrize("name", [5, None, int])
def test_a_decorator_without_its_name_is_refused_by_name(name: Any) -> None:
    """As where ``@event`` stands above the class without brackets."""
    with pytest.raises(ConfigurationError, match=r"message type .* is not a valid name"):
        event(name)


def test_what_is_no_class_is_no_message() -> None:
    with pytest.raises(ConfigurationError, match=r"'order\.placed' is not declared as a message"):
        message_type_of("order.placed")  # type: ignore[arg-type]  # as in on("order.placed")


@pytest.mark.parametrize("name", ["", "Order.Placed", "order.*", "order.>", "order placed", "a..b", "a.", "order\n"])
def test_a_name_outside_the_allow_list_is_refused_at_decoration(name: str) -> None:
    with pytest.raises(ConfigurationError, match="not a valid name"):
        event(name)
    with pytest.raises(ConfigurationError, match="not a valid name"):
        command("a.b", queue=name)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("o-1", "o-1"),
        (7, "7"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Region.NORTH, "north"),
        (Priority.HIGH, "3"),
    ],
)
def test_texts_numbers_uuids_and_enumerations_make_keys(value: object, key: str) -> None:
    assert key_of(OrderPlaced(value)) == key
    assert type(key_of(OrderPlaced(value))) is str


def test_a_function_makes_the_key() -> None:
    assert key_of(StockReserved(site="A", sku=1)) == "A/1"


def test_a_class_without_a_key_has_none() -> None:
    assert key_of(Ticked(1)) is None


def test_a_missing_key_is_refused_with_a_hint_to_flush() -> None:
    with pytest.raises(MissingKeyError, match="flush the session first"):
        key_of(OrderPlaced(None))


@pytest.mark.parametrize("value", [1.5, True, b"o-1", ("a",)])
def test_a_key_whose_text_could_differ_is_refused(value: object) -> None:
    with pytest.raises(InvalidMessageError, match="its key is of type"):
        key_of(OrderPlaced(value))
