"""Rules of the JSON codec."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from pillarbox.errors import ConfigurationError, DecodeError, InvalidMessageError
from pillarbox.message import Limits, event
from pillarbox.serialization import JsonCodec


class Colour(StrEnum):
    RED = "red"


class Size(Enum):
    BIG = 1


class Address(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    street: str = Field(alias="streetName")
    since: datetime | None = None


@dataclass(frozen=True)
class Line:
    sku: str
    price: Decimal
    tags: frozenset[str] = frozenset()


@event("order.placed")
@dataclass
class Order:
    order_id: UUID
    at: datetime
    lines: list[Line]
    colour: Colour = Colour.RED
    size: Size = Size.BIG
    blob: bytes = b""
    weight: float = 1.5
    maybe: float | None = None
    waits: timedelta = timedelta(seconds=1)
    counts: dict[int, str] = field(default_factory=dict[int, str])
    address: Address | None = None
    anything: Any = None


class Small(msgspec.Struct):
    a: str
    b: int = 0


class Sku(BaseModel):
    a: str
    price: float = 0.0
    lines: list[dict[str, float]] = []
    at: datetime | None = None


AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


def _order(**fields: Any) -> Order:
    return Order(**{"order_id": UUID(int=1), "at": AT, "lines": [Line("a", Decimal("1.10"))]} | fields)


@pytest.mark.parametrize(
    "message",
    [
        _order(
            blob=b"\x00\xff",
            counts={1: "one"},
            address=Address(street="High St", since=AT),
            lines=[Line("b", Decimal("0.001"), frozenset({"x"}))],
            anything=[{"a": 1}],
        ),
        Small("ä🙂", 2**63),
        Sku(a="s", price=1e300, lines=[{"x": 0.1}], at=AT),
    ],
)
def test_what_is_encoded_decodes_to_an_equal_message(message: object) -> None:
    codec = JsonCodec()

    assert codec.decode(codec.encode(message), type(message)) == message


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (_order(weight=math.nan), "$.weight is nan"),
        (_order(maybe=math.inf), "$.maybe is inf"),
        (_order(anything={"a": [1, -math.inf]}), "$.anything['a'][1] is -inf"),
        (_order(anything={math.nan: 1}), "$.anything (a key) is nan"),
        (_order(lines=[Line("a", Decimal(1)), Line("b", Decimal("NaN"))]), "$.lines[1].price is NaN"),
        (_order(at=datetime(2026, 1, 1)), "$.at is a naive datetime"),  # noqa: DTZ001 the rule under test
        (_order(anything=datetime(2026, 1, 1)), "$.anything is a naive datetime"),  # noqa: DTZ001 as above
        (_order(anything={"a": "\ud800"}), "$.anything['a'] holds a lone surrogate"),
        (_order(lines=[Line("\udfff", Decimal(1))]), "$.lines[0].sku holds a lone surrogate"),
        (_order(lines=[Line("a", Decimal(1), frozenset({"\ud800"}))]), "$.lines[0].tags[...] holds"),
        (_order(anything=[object()]), "$.anything[0] is of type object, which cannot be encoded"),
        (_order(anything={("a", 1): 2}), "$.anything (a key) is of type tuple"),
        (_order(address=Address(street="a", since=datetime(2026, 1, 1))), "$.address.since"),  # noqa: DTZ001 as above
        (Small("\ud800"), "$.a holds a lone surrogate"),
        (Sku(a="a", price=math.nan), "$.price is nan"),
        (Sku(a="a", lines=[{"x": math.inf}]), "$.lines[0]['x'] is inf"),
        (Sku(a="a", at=datetime(2026, 1, 1)), "$.at is a naive datetime"),  # noqa: DTZ001 as above
    ],
)
def test_what_would_be_lost_is_refused_by_its_path(message: object, path: str) -> None:
    with pytest.raises(InvalidMessageError) as caught:
        JsonCodec().encode(message)

    assert path in caught.value.reason


def test_values_that_their_annotation_does_not_admit_are_refused() -> None:
    codec = JsonCodec()

    with pytest.raises(InvalidMessageError, match=r"\$\.b"):
        codec.encode(Small("a", math.nan))  # type: ignore[arg-type]  # the rule under test
    with pytest.raises(InvalidMessageError):
        codec.encode(Sku.model_construct(a=3))


def test_a_message_that_contains_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)

    with pytest.raises(InvalidMessageError, match="nested deeper"):
        JsonCodec().encode(_order(anything=endless))


def test_bytes_in_pydantic_models_that_are_no_text_are_refused() -> None:
    class Picture(BaseModel):
        data: bytes

    with pytest.raises(InvalidMessageError):
        JsonCodec().encode(Picture(data=b"\xff"))


@pytest.mark.parametrize("annotation", [complex, Line | Order, "Nowhere"])
def test_a_class_that_json_cannot_carry_is_an_error_of_the_program(annotation: object) -> None:
    wrong = dataclass(type("Wrong", (), {"__annotations__": {"a": annotation}}))

    with pytest.raises(ConfigurationError, match="cannot be carried as JSON"):
        JsonCodec().prepare(wrong)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b"null",
        b'{"a": 1}',
        b'{"a": "\xff"}',
        b'{"a": "x", "b": ' + b"9" * 5_000 + b"}",
        b'{"a": ' + b"[" * 100_000,
        b'{"c": ' + b"[" * 100_000,
        b'{"a": "x"} trailing',
    ],
)
@pytest.mark.parametrize("cls", [Small, Sku, Line])
def test_a_body_that_does_not_fit_is_undecodable(body: bytes, cls: type[object]) -> None:
    with pytest.raises(DecodeError):
        JsonCodec().decode(body, cls)


def test_a_decode_error_names_the_type_and_the_place() -> None:
    with pytest.raises(DecodeError) as caught:
        JsonCodec().decode(b'{"order_id": 1}', Order)

    assert caught.value.message_type == "order.placed"
    assert "$.order_id" in caught.value.reason


def test_a_decode_error_of_a_pydantic_model_does_not_repeat_the_body() -> None:
    with pytest.raises(DecodeError) as caught:
        JsonCodec().decode(b'{"a": {"secret": "hunter2"}, "lines": [{"x": "hunter2"}]}', Sku)

    assert "hunter2" not in caught.value.reason
    assert "$.lines[0].x" in caught.value.reason


@pytest.mark.parametrize("value", ['"hunter2"', '"hunter2\\n - at `$.pay` "', "4711"])
@pytest.mark.parametrize("kind", [Colour, Literal["red"], Literal[1, "red"]])
def test_nor_does_one_of_a_value_that_is_none_of_those_allowed(value: str, kind: Any) -> None:
    painted = msgspec.defstruct("Painted", [("colour", kind)])

    with pytest.raises(DecodeError) as caught:
        JsonCodec().decode(f'{{"colour": {value}}}'.encode(), painted)

    assert "hunter2" not in caught.value.reason
    assert "4711" not in caught.value.reason
    assert "$.colour" in caught.value.reason


def test_an_exception_of_a_validator_is_a_decode_error() -> None:
    class Picky(BaseModel):
        a: str

        @field_validator("a")
        @classmethod
        def check(cls, value: str) -> str:
            raise KeyError(value)

    with pytest.raises(DecodeError):
        JsonCodec().decode(b'{"a": "x"}', Picky)


def test_fields_that_the_class_does_not_know_are_passed_over() -> None:
    assert JsonCodec().decode(b'{"a": "x", "later": 1}', Small) == Small("x")


def test_a_body_that_is_too_large_is_not_parsed() -> None:
    codec = JsonCodec(limits=Limits(max_body_bytes=10))

    with pytest.raises(DecodeError, match="at most 10"):
        codec.decode(b'{"a": "xxxxxxxx"}', Small)
    with pytest.raises(DecodeError, match="at most 10"):
        codec.decode_untyped(b"[" * 11)


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[" * 150 + b"]" * 150, b"{", b"1e999", b'"\\ud800"'])
def test_untyped_decoding_raises_nothing_but_its_own_error(body: bytes) -> None:
    with pytest.raises(DecodeError):
        JsonCodec().decode_untyped(body)


def test_untyped_bodies_convert_to_their_class() -> None:
    codec = JsonCodec()
    order = _order(address=Address(street="High St"))

    assert codec.convert(codec.decode_untyped(codec.encode(order)), Order) == order


@pytest.mark.parametrize("builtins", [{"a": object()}, {"a": math.nan}, {"a": "\ud800"}, [], {"a": 1}])
def test_builtins_that_do_not_fit_are_undecodable(builtins: object) -> None:
    with pytest.raises(DecodeError):
        JsonCodec().convert(builtins, Small)
