"""Rules of serialization that hold for whatever Hypothesis comes up with."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from pillarbox.errors import DecodeError, InvalidMessageError
from pillarbox.message import Message
from pillarbox.serialization import JsonCodec
from pillarbox.serialization.cloudevents import from_binary, from_structured, to_binary, to_structured


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Leaf:
    text: str
    number: int
    real: float
    money: Decimal
    at: datetime
    id: UUID
    colour: Colour
    maybe: float | None


@dataclass
class Tree:
    leaf: Leaf
    leaves: list[Leaf]
    named: dict[str, Leaf]
    blob: bytes
    anything: Any


class StructLeaf(msgspec.Struct):
    text: str
    real: float
    at: datetime
    leaf: Leaf


class StructTree(msgspec.Struct):
    leaves: list[StructLeaf]
    numbered: dict[int, StructLeaf]


class ModelLeaf(BaseModel):
    text: str
    real: float
    money: Decimal
    at: datetime
    id: UUID
    colour: Colour


class ModelTree(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    leaves: list[ModelLeaf]
    named: dict[str, ModelLeaf]
    blob: bytes


@dataclass
class Mixed:
    models: list[ModelLeaf]
    struct: StructLeaf


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INSTANTS = st.datetimes(timezones=st.just(UTC))
REALS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | REALS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
LEAVES = st.builds(
    Leaf,
    text=TEXTS,
    number=st.integers(-(2**63), 2**63 - 1),
    real=REALS,
    money=st.decimals(allow_nan=False, allow_infinity=False),
    at=INSTANTS,
    id=st.uuids(),
    colour=st.sampled_from(Colour),
    maybe=st.none() | REALS,
)
TREES = st.builds(
    Tree,
    leaf=LEAVES,
    leaves=st.lists(LEAVES, max_size=2),
    named=st.dictionaries(TEXTS, LEAVES, max_size=2),
    blob=st.binary(max_size=20),
    anything=JSON,
)
STRUCT_LEAVES = st.builds(StructLeaf, text=TEXTS, real=REALS, at=INSTANTS, leaf=LEAVES)
STRUCTS = st.builds(
    StructTree,
    leaves=st.lists(STRUCT_LEAVES, max_size=2),
    numbered=st.dictionaries(st.integers(-(2**63), 2**63 - 1), STRUCT_LEAVES, max_size=2),
)
MODEL_LEAVES = st.builds(
    ModelLeaf,
    text=TEXTS,
    real=REALS,
    money=st.decimals(allow_nan=False, allow_infinity=False),
    at=INSTANTS,
    id=st.uuids(),
    colour=st.sampled_from(Colour),
)
MODELS = st.builds(
    ModelTree,
    leaves=st.lists(MODEL_LEAVES, max_size=2),
    named=st.dictionaries(TEXTS, MODEL_LEAVES, max_size=2),
    blob=st.binary(max_size=20),
)
MIXED = st.builds(Mixed, models=st.lists(MODEL_LEAVES, max_size=2), struct=STRUCT_LEAVES)

CODEC = JsonCodec()


@given(TREES | STRUCTS | MODELS | MIXED)
def test_what_is_encoded_decodes_to_an_equal_message(message: object) -> None:
    assert CODEC.decode(CODEC.encode(message), type(message)) == message


@given(TREES | STRUCTS | MODELS | MIXED)
def test_untyped_bodies_convert_to_an_equal_message(message: object) -> None:
    assert CODEC.convert(CODEC.decode_untyped(CODEC.encode(message)), type(message)) == message


BAD = st.sampled_from(
    [
        ("real", math.nan),
        ("real", math.inf),
        ("real", -math.inf),
        ("at", datetime(2026, 1, 1)),  # noqa: DTZ001 the rule under test
        ("text", "\ud800"),
        ("text", "a\udfffb"),
    ]
)


@given(st.data(), BAD)
def test_what_json_would_lose_is_refused_wherever_it_stands(data: st.DataObject, bad: tuple[str, object]) -> None:
    field, value = bad
    tree = data.draw(TREES | STRUCTS | MODELS | MIXED)
    leaves = _leaves_of(tree)
    if not leaves:
        return
    setattr(data.draw(st.sampled_from(leaves)), field, value)

    with pytest.raises(InvalidMessageError) as caught:
        CODEC.encode(tree)

    assert f".{field} " in caught.value.reason


@given(TREES, JSON, st.sampled_from([math.nan, Decimal("sNaN"), Decimal("Infinity"), "\ud800", object(), 1j]))
def test_it_is_refused_inside_untyped_fields_too(tree: Tree, around: object, bad: object) -> None:
    tree.anything = {"around": around, "deep": [{"bad": bad}]}

    with pytest.raises(InvalidMessageError, match=r"\$\.anything\['deep'\]\[0\]\['bad'\]"):
        CODEC.encode(tree)


@given(st.binary(max_size=200) | JSON.map(msgspec.json.encode))
def test_whatever_a_body_holds_decoding_raises_nothing_but_its_own_error(body: bytes) -> None:
    for cls in (Tree, Leaf, StructTree, ModelTree, ModelLeaf, Mixed):
        with suppress(DecodeError):
            CODEC.decode(body, cls)
    with suppress(DecodeError):
        CODEC.decode_untyped(body)


@given(TREES, st.data())
def test_a_damaged_body_raises_nothing_but_the_decode_error(tree: Tree, data: st.DataObject) -> None:
    body = bytearray(CODEC.encode(tree))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))

    with suppress(DecodeError):
        CODEC.decode(bytes(body), Tree)


HEADER_NAMES = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,30}", fullmatch=True).filter(
    lambda name: not name.startswith(("ce_", "ce-", "pillarbox")) and name not in {"content-type", "specversion"}
)
MESSAGES = st.builds(
    Message,
    id=st.uuids().map(str),
    type=st.just("order.placed"),
    destination=st.just("topic:order"),
    key=st.none() | TEXTS.filter(lambda key: key != "" and "\0" not in key),
    content_type=st.sampled_from(["application/json", "application/vnd.x+json", "application/octet-stream"]),
    headers=st.dictionaries(HEADER_NAMES, TEXTS, max_size=4).map(lambda headers: {**headers, "source": "shop"}),
    body=st.binary(max_size=30) | JSON.map(msgspec.json.encode),
)


@given(MESSAGES)
def test_a_message_survives_the_binary_form(message: Message) -> None:
    assert from_binary(to_binary(message), message.body, destination=message.destination) == message


@given(MESSAGES)
def test_a_message_survives_the_structured_form(message: Message) -> None:
    back = from_structured(
        msgspec.json.decode(msgspec.json.encode(to_structured(message)), type=dict[str, object]),
        destination=message.destination,
    )

    assert (back.id, back.key, back.headers, back.content_type) == (
        message.id,
        message.key,
        message.headers,
        message.content_type,
    )
    assert back.body == message.body or msgspec.json.decode(back.body) == msgspec.json.decode(message.body)


def _leaves_of(value: object) -> list[object]:
    """Return every object in the tree that has the fields to spoil."""
    found: list[object] = [value] if hasattr(value, "real") and hasattr(value, "text") else []
    if isinstance(value, dict):
        children = list(value.values())
    elif isinstance(value, list):
        children = value
    elif isinstance(value, msgspec.Struct):
        children = [getattr(value, name) for name in value.__struct_fields__]
    elif isinstance(value, (Tree, Leaf, Mixed, BaseModel)):
        children = list(vars(value).values())
    else:
        children = []
    for child in children:
        found += _leaves_of(child)
    return found
