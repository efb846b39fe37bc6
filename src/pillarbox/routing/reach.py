"""What can be told about conditions without any message: which always hold, which never do, which imply others.

Only what is certain is told. Of a predicate nothing is known but that it is the same as itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pillarbox.routing.conditions import AllOf, AnyOf, Comparison, Condition, Not
from pillarbox.routing.operators import OPERATORS, kind_of

LOWER = ("gt", "ge")
UPPER = ("lt", "le")


def is_always(condition: Condition) -> bool:
    """Tell whether ``condition`` holds for every message."""
    match condition:
        case AllOf(parts):
            return all(is_always(part) for part in parts)
        case AnyOf(parts):
            return any(is_always(part) for part in parts) or _has_opposites(parts)
        case Not(part):
            return is_never(part)
        case _:
            return False


def is_never(condition: Condition) -> bool:
    """Tell whether ``condition`` holds for no message: one of its parts rules another out."""
    match condition:
        case AllOf():
            parts = _flat(condition)
            return any(is_never(part) for part in parts) or _has_opposites(parts) or _rule_each_other_out(parts)
        case AnyOf(parts):
            return all(is_never(part) for part in parts)
        case Not(part):
            return is_always(part)
        case _:
            return False


def implies(one: Condition, other: Condition) -> bool:
    """Tell whether ``other`` holds for every message that ``one`` holds for, as far as can be seen."""
    if is_always(other) or is_same(one, other):
        return True
    match one, other:
        case _, AllOf(parts):
            return all(implies(one, part) for part in parts)
        case AnyOf(parts), _:
            return all(implies(part, other) for part in parts)
        case _, AnyOf(parts):
            return any(implies(one, part) for part in parts)
        case AllOf(parts), _:
            return any(implies(part, other) for part in parts)
        case Comparison(), Comparison():
            return one.field.text == other.field.text and _comparison_implies(one, other)
        case _:
            return False


def is_same(one: Condition, other: Condition) -> bool:
    """Tell whether two conditions say the same; 1 and ``true`` are not the same."""
    match one, other:
        case Comparison(), Comparison():
            return (one.field.text, one.operator, _values(one)) == (other.field.text, other.operator, _values(other))
        case (AllOf(parts), AllOf(others)) | (AnyOf(parts), AnyOf(others)):
            return len(parts) == len(others) and all(map(is_same, parts, others))
        case Not(part), Not(opposite):
            return is_same(part, opposite)
        case _:
            return one == other


def _comparison_implies(one: Comparison, other: Comparison) -> bool:
    if (values := _only_values(one)) is not None:
        return all(_passes(other, value) for value in values)
    if other.operator == "exists":
        return other.value is True and _needs_the_field(one)
    if kind_of(one.value) != kind_of(other.value):
        return False
    at_the_bound = one.value == other.value and (one.operator in ("gt", "lt") or other.operator in ("ge", "le"))
    if one.operator in LOWER and other.operator in LOWER:
        return at_the_bound or one.value > other.value
    if one.operator in UPPER and other.operator in UPPER:
        return at_the_bound or one.value < other.value
    return one.operator == other.operator == "starts_with" and one.value.startswith(other.value)


def _rule_each_other_out(parts: Sequence[Condition]) -> bool:
    comparisons = [part for part in parts if isinstance(part, Comparison)]
    for one in comparisons:
        others = [other for other in comparisons if other is not one and other.field.text == one.field.text]
        values = _only_values(one)
        if values is not None and not any(all(_passes(other, value) for other in others) for value in values):
            return True
        if any(_are_apart(one, other) for other in others):
            return True
    return False


def _are_apart(one: Comparison, other: Comparison) -> bool:
    """Tell whether no value satisfies both."""
    if one.operator == "exists" and one.value is False:
        return _needs_the_field(other)
    if one.operator in LOWER and other.operator in UPPER and kind_of(one.value) == kind_of(other.value):
        touching = one.operator == "ge" and other.operator == "le"
        return one.value > other.value or (one.value == other.value and not touching)
    if one.operator == other.operator == "starts_with":
        return not (one.value.startswith(other.value) or other.value.startswith(one.value))
    return False


def _has_opposites(parts: Sequence[Condition]) -> bool:
    return any(is_same(part.part, other) for part in parts if isinstance(part, Not) for other in parts)


def _only_values(one: Comparison) -> tuple[Any, ...] | None:
    """Return the only values for which ``one`` holds; ``None`` where they cannot be listed."""
    return (one.operand,) if one.operator == "eq" else one.operand if one.operator == "in" else None


def _passes(one: Comparison, value: object) -> bool:
    try:
        return one.holds_for(value)
    except (TypeError, ValueError):  # a message with that value is put aside, so nothing holds for it
        return False


def _needs_the_field(one: Comparison) -> bool:
    return one.value is True if one.operator == "exists" else not OPERATORS[one.operator].without


def _values(one: Comparison) -> object:
    if one.operator in ("in", "not_in"):
        return frozenset((kind_of(value), value) for value in one.operand)
    return kind_of(one.value), one.value


def _flat(condition: AllOf) -> list[Condition]:
    return [inner for part in condition.parts for inner in (_flat(part) if isinstance(part, AllOf) else (part,))]
