"""How a rule compares what it finds with the value it was given: strictly, unlike kinds are never compared."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from pillarbox.errors import ConfigurationError
from pillarbox.routing.pattern import Pattern

Kind: TypeAlias = str
SCALARS: tuple[Kind, ...] = ("text", "number", "boolean", "null")
NAMES = "eq, ne, lt, le, gt, ge, in, not_in, exists, contains, starts_with, ends_with, matches"


def kind_of(value: object) -> Kind:
    """Return what kind of value this is, in JSON's terms."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "text"
        case list() | tuple():
            return "list"
        case _:
            return "object"


class UnlikeError(TypeError):
    """Two values of different kinds were to be compared."""

    def __init__(self, found: object, wanted: str) -> None:
        super().__init__(
            f"the message holds a value of the kind {kind_of(found)} where the rule compares with {wanted}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One way to compare.

    Attributes:
        takes: the kinds of the rule's value, for each of its values where it takes several.
        several: whether it takes a list of values.
        without: what holds where the field is missing; a missing field equals nothing.
        test: compares a found value with the rule's; unlike kinds raise ``UnlikeError``.
    """

    takes: tuple[Kind, ...]
    test: Callable[[Any, Any], bool]
    several: bool = False
    without: bool = False


def is_equal(found: object, wanted: object) -> bool:
    """Compare for equality; ``null`` equals ``null`` alone."""
    kind, other = kind_of(found), kind_of(wanted)
    if "null" in (kind, other):
        return kind == other
    if kind != other:
        raise UnlikeError(found, other)
    return found == wanted


def is_among(found: object, wanted: Sequence[object]) -> bool:
    """Look for an equal value; a kind that none of them has is not compared."""
    kinds = {kind_of(one) for one in wanted}
    if found is not None and kind_of(found) not in kinds:
        raise UnlikeError(found, " or ".join(sorted(kinds)))
    return any(kind_of(one) == kind_of(found) and one == found for one in wanted)


def _in_order(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def test(found: object, wanted: object) -> bool:
        if found is None:
            return False
        if kind_of(found) != kind_of(wanted):
            raise UnlikeError(found, kind_of(wanted))
        return compare(found, wanted)

    return test


def _of_texts(compare: Callable[[str, Any], bool]) -> Callable[[Any, Any], bool]:
    def test(found: object, wanted: object) -> bool:
        if found is None:
            return False
        if not isinstance(found, str):
            raise UnlikeError(found, "text")
        return compare(found, wanted)

    return test


def does_contain(found: object, wanted: object) -> bool:
    """Look for a text in a text, or for a value in a list."""
    if isinstance(found, (list, tuple)):
        return any(kind_of(one) == kind_of(wanted) and one == wanted for one in cast("Sequence[object]", found))
    if found is None:
        return False
    if isinstance(found, str) and isinstance(wanted, str):
        return wanted in found
    raise UnlikeError(found, f"a {kind_of(wanted)} in a list" + " or a text" * isinstance(wanted, str))


ORDERED = ("text", "number")
TEXT = ("text",)

OPERATORS: dict[str, Operator] = {
    "eq": Operator(takes=SCALARS, test=is_equal),
    "ne": Operator(takes=SCALARS, test=lambda found, wanted: not is_equal(found, wanted), without=True),
    "lt": Operator(takes=ORDERED, test=_in_order(operator.lt)),
    "le": Operator(takes=ORDERED, test=_in_order(operator.le)),
    "gt": Operator(takes=ORDERED, test=_in_order(operator.gt)),
    "ge": Operator(takes=ORDERED, test=_in_order(operator.ge)),
    "in": Operator(takes=SCALARS, several=True, test=is_among),
    "not_in": Operator(
        takes=SCALARS, several=True, test=lambda found, wanted: not is_among(found, wanted), without=True
    ),
    "contains": Operator(takes=("text", "number", "boolean"), test=does_contain),
    "starts_with": Operator(takes=TEXT, test=_of_texts(str.startswith)),
    "ends_with": Operator(takes=TEXT, test=_of_texts(str.endswith)),
    "matches": Operator(takes=TEXT, test=_of_texts(lambda found, pattern: pattern.matches(found))),
}
"""All but ``exists``, which looks at no value."""


def operand(name: str, value: object, *, holds: Kind | None) -> object:
    """Check the value that a rule gives to the operator ``name`` and return it ready for its test.

    Args:
        name: one of ``OPERATORS``.
        value: as the rule says it.
        holds: the kind of value that the rule's field always has, if that is known.

    Raises:
        ConfigurationError: the operator cannot compare with it, or not in that field.
    """
    one = OPERATORS[name]
    if one.several and (kind_of(value) != "list" or not value):
        raise ConfigurationError(f"{name} takes a list of at least one value, not {value!r}")
    values = list(cast("Sequence[object]", value)) if one.several else [value]
    for each in values:
        if kind_of(each) not in one.takes or (isinstance(each, float) and not math.isfinite(each)):
            raise ConfigurationError(f"{name} compares with {' or '.join(one.takes)}, not with {each!r}")
        if holds is not None and kind_of(each) != holds:
            raise ConfigurationError(f"the field holds a {holds}, which {name} cannot compare with {each!r}")
    if name == "matches":
        return Pattern(str(value))
    return tuple(values) if one.several else value
