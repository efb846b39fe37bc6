"""Conditions: what decides whether a rule applies to a message, as data or as a Python predicate.

Data is ``{"field": "body.priority", "operator": "eq", "value": "EXPRESS"}``, and ``{"all": […]}``, ``{"any": […]}`` and
``{"not": …}`` of such. A field that is missing equals nothing; values of unlike kinds are not compared, the message is
put aside instead.

Source: the reading order is fields, operators, pattern, conditions, reach.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeGuard, cast

from pillarbox.errors import ConfigurationError
from pillarbox.routing.fields import MISSING, Field, Found, field_at
from pillarbox.routing.operators import NAMES, OPERATORS, operand
from pillarbox.routing.view import RoutedMessage

MAX_NESTING = 20
MAX_SHOWN = 80


class Condition(Protocol):
    """Something that holds for a message, or does not."""

    @abstractmethod
    def holds(self, message: RoutedMessage, /) -> bool:
        """Judge ``message``; whatever this raises puts the message aside."""

    @abstractmethod
    def why(self, message: RoutedMessage, /) -> str:
        """Say for a person what this finds in ``message`` and what it looks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Condition):
    """A field compared with a value.

    Attributes:
        operator: one of ``OPERATORS``, or ``exists``.
        value: as the rule says it.
        operand: the value, ready for the operator's test.
    """

    field: Field
    operator: str
    value: Any
    operand: Any

    def holds(self, message: RoutedMessage, /) -> bool:
        """Compare what the field holds."""
        return self.holds_for(self.field.read(message))

    def holds_for(self, found: Found) -> bool:
        """Compare ``found``."""
        if self.operator == "exists":
            return (found is not MISSING) is self.value
        operator = OPERATORS[self.operator]
        return operator.without if found is MISSING else operator.test(found, self.operand)

    def why(self, message: RoutedMessage, /) -> str:
        """Say what the field holds and what was looked for."""
        found = self.field.read(message)
        holds = "is missing" if found is MISSING else f"is {shown(found)}"
        return f"{self.field.text} {holds}; wanted: {self.operator} {shown(self.value)}"


@dataclass(frozen=True, slots=True)
class AllOf(Condition):
    """Every one of several conditions; of none at all it always holds."""

    parts: tuple[Condition, ...]

    def holds(self, message: RoutedMessage, /) -> bool:
        """Look until one does not hold."""
        return all(part.holds(message) for part in self.parts)

    def why(self, message: RoutedMessage, /) -> str:
        """Say what each finds, up to the first that does not hold."""
        return _explained(self.parts, message, until=False) if self.parts else "it always holds"


@dataclass(frozen=True, slots=True)
class AnyOf(Condition):
    """At least one of several conditions."""

    parts: tuple[Condition, ...]

    def holds(self, message: RoutedMessage, /) -> bool:
        """Look until one holds."""
        return any(part.holds(message) for part in self.parts)

    def why(self, message: RoutedMessage, /) -> str:
        """Say what each finds, up to the first that holds."""
        return _explained(self.parts, message, until=True)


@dataclass(frozen=True, slots=True)
class Not(Condition):
    """The opposite of a condition."""

    part: Condition

    def holds(self, message: RoutedMessage, /) -> bool:
        """Turn the answer round."""
        return not self.part.holds(message)

    def why(self, message: RoutedMessage, /) -> str:
        """Say what the inner one finds."""
        return f"not ({self.part.why(message)})"


@dataclass(frozen=True, slots=True)
class Predicate(Condition):
    """A Python function of the message: quick, without effects, the same answer every time."""

    function: Callable[[RoutedMessage], object]

    def holds(self, message: RoutedMessage, /) -> bool:
        """Call it; an answer that is neither True nor False is an error, lest a coroutine or a typo counts as yes."""
        answer = self.function(message)
        if isinstance(answer, bool):
            return answer
        raise TypeError(f"{self.name} returned a {type(answer).__qualname__}; a condition returns True or False")

    def why(self, message: RoutedMessage, /) -> str:
        """Say what it returned."""
        return f"{self.name} returned {self.holds(message)}"

    @property
    def name(self) -> str:
        """The name of the function."""
        return str(getattr(self.function, "__name__", type(self.function).__qualname__))


Known: TypeAlias = Comparison | AllOf | AnyOf | Not | Predicate
ConditionLike: TypeAlias = Known | Mapping[str, Any] | Callable[[RoutedMessage], bool]


def condition_of(said: ConditionLike, *, depth: int = 0) -> Condition:
    """Return the condition that ``said`` means: data, or a predicate.

    Raises:
        ConfigurationError: a field, operator or value is not as it should be, or it is no condition at all.
    """
    if depth > MAX_NESTING:
        raise ConfigurationError(f"a condition is nested deeper than {MAX_NESTING} levels")
    if isinstance(said, Known):
        return said
    if _is_data(said):
        return _from_data(said, depth)
    if not callable(said):
        raise ConfigurationError(f"{shown(said)} is no condition; give a function of the message, or data with a field")
    if inspect.iscoroutinefunction(said) or inspect.isclass(said):
        raise ConfigurationError(f"{said!r} is no condition; give a plain function that returns True or False")
    return Predicate(said)


def _is_data(said: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(said, Mapping)


def _from_data(said: Mapping[str, Any], depth: int) -> Condition:
    match dict(said):
        case {"all": parts, **rest} if not rest:
            return AllOf(_parts(parts, depth))
        case {"any": parts, **rest} if not rest:
            if not parts:
                raise ConfigurationError("'any' of no conditions never holds; name at least one")
            return AnyOf(_parts(parts, depth))
        case {"not": part, **rest} if not rest:
            return Not(condition_of(part, depth=depth + 1))
        case {"field": field, "operator": operator, **rest} if rest.keys() <= {"value"}:
            return _comparison(field_at(field), operator, rest)
        case _:
            raise ConfigurationError(
                f"{shown(said)} is no condition; write a field, an operator and a value, or 'all', 'any' or 'not'"
            )


def _parts(said: object, depth: int) -> tuple[Condition, ...]:
    if not isinstance(said, (list, tuple)):
        raise ConfigurationError(f"'all' and 'any' take a list of conditions, not {shown(said)}")
    return tuple(condition_of(part, depth=depth + 1) for part in cast("Sequence[ConditionLike]", said))


def _comparison(field: Field, operator: object, rest: Mapping[str, Any]) -> Comparison:
    try:
        if operator == "exists":
            value = rest.get("value", True)
            if not isinstance(value, bool):
                raise ConfigurationError(f"exists takes true or false, not {value!r}")
            return Comparison(field=field, operator="exists", value=value, operand=value)
        if not isinstance(operator, str) or operator not in OPERATORS:
            raise ConfigurationError(f"nobody knows the operator {operator!r}; there are {NAMES}")
        if "value" not in rest:
            raise ConfigurationError(f"{operator} needs a value to compare with")
        ready = operand(operator, rest["value"], holds=field.holds)
        return Comparison(field=field, operator=operator, value=rest["value"], operand=ready)
    except ConfigurationError as error:
        raise ConfigurationError(f"condition on {field.text!r}: {error}") from None


def _explained(parts: Sequence[Condition], message: RoutedMessage, *, until: bool) -> str:
    told: list[str] = []
    for part in parts:
        told.append(part.why(message))
        if part.holds(message) is until:
            break
    return (" or " if until else " and ").join(f"({one})" for one in told) if len(told) > 1 else told[0]


def shown(value: object) -> str:
    """Return ``value`` for a person, cut where it is long."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
