"""Checks the values that settings are made of: their types as annotated, and their bounds.

Every refusal names the class and the field, says what the field may be, and shows what it was given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from pillarbox.errors.kinds import ConfigurationError

Quantity = int | float | timedelta

LONGEST_SHOWN = 200
_NOUNS: Mapping[object, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "True or False",
    timedelta: "a timedelta",
    datetime: "an instant with a time zone",
}
_KINDS: Mapping[str, str] = {"Callable": "a function", "Mapping": "a mapping", "type": "a class"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Where a number or a duration must lie.

    Attributes:
        above: the value is greater.
        least: the value is not smaller.
        most: the value is not greater.
        none: what ``None`` means where the field takes it, as in ``to keep nothing``.
    """

    above: Quantity | None = None
    least: Quantity | None = None
    most: Quantity | None = None
    none: str = ""

    def hold(self, value: Any) -> bool:
        """Tell whether ``value``, of the right type, lies within them."""
        return (
            (self.above is None or value > self.above)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
        )

    def __str__(self) -> str:
        """Say them, as they follow the name of the type."""
        above = "" if self.above is None else f" above {_said(self.above)}"
        least = "" if self.least is None else f" of at least {_said(self.least)}"
        most = "" if self.most is None else f"{' and' if above or least else ' of'} at most {_said(self.most)}"
        return f"{above}{least}{most}"


UNBOUNDED = Bounds()
SOME_TIME = Bounds(above=timedelta(0))
NO_NEGATIVE_TIME = Bounds(least=timedelta(0))
FROM_ONE = Bounds(least=1)


def check_values(settings: object, /, *, where: str = "", **bounds: Bounds) -> None:
    """Refuse a field of the dataclass ``settings`` that is not as annotated, or out of its bounds.

    Args:
        settings: an instance of a class of ours, whose annotations can be evaluated in its module, or of a subclass.
        where: what the error begins with, before the field; ``ClassName.`` unless given.
        bounds: of its fields, by name.

    Raises:
        ConfigurationError: names the first such field.
    """
    hints = _hints_of(cast("Any", type(settings)))
    for field in fields(settings):  # type: ignore[arg-type]  # no type says "a dataclass"
        if field.name not in hints:
            continue
        check_value(
            getattr(settings, field.name),
            hints[field.name],
            name=f"{where or f'{type(settings).__name__}.'}{field.name}",
            bounds=bounds.get(field.name, UNBOUNDED),
        )


def check_value(
    value: object, hint: object, /, *, name: str, bounds: Bounds = UNBOUNDED, shown: str | None = None
) -> None:
    """Refuse ``value`` where it is not of the type ``hint``, or out of ``bounds``.

    Args:
        value: what was given.
        hint: what it is annotated as.
        name: of what it was given for.
        bounds: of a number or a duration.
        shown: how the error shows ``value``, where that may hold a password.

    Raises:
        ConfigurationError: says what ``name`` may be.
    """
    if any(_fits(value, one, bounds) for one in _choices(hint)):
        return
    raise ConfigurationError(f"{name} must be {_allowed(hint, bounds)}, got {shown or _shown(value, hint)}")


def check_limit(limit: object) -> None:
    """Refuse a number of what is to be listed that a database refuses, or takes for no limit at all.

    Raises:
        ConfigurationError: it is negative, larger than any database counts, or no whole number.
    """
    check_value(limit, int, name="limit", bounds=Bounds(least=0, most=2**63 - 1))


def _shown(value: object, hint: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}" + (f"; write {value.__name__}()" if _is_class_of(value, hint) else "")
    return str(value) if isinstance(value, timedelta) else repr(value)[:LONGEST_SHOWN]


@cache
def _hints_of(kind: type) -> Mapping[str, Any]:
    """Return the types of our fields of ``kind``; what a program's subclass adds may be known to type checkers only."""
    return get_type_hints(next(one for one in kind.__mro__ if _is_ours(one) and is_dataclass(one)))


def _choices(hint: object) -> tuple[object, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _fits(value: object, hint: Any, bounds: Bounds) -> bool:
    if hint is NoneType:
        return value is None
    if hint in (int, float, timedelta):
        return _is_quantity(value, hint) and bounds.hold(value)
    if hint is datetime:
        return isinstance(value, datetime) and value.tzinfo is not None
    if get_origin(hint) is Literal:
        return any(value == one and type(value) is type(one) for one in get_args(hint))
    kind = _class_of(hint)
    if kind is None:
        return True  # anything, or a variable of a generic type
    if issubclass(kind, Enum):
        return value in [*kind, *(one.value for one in kind)]
    if _is_port(kind):
        methods: Iterable[str] = getattr(kind, "__abstractmethods__", ())
        return not isinstance(value, type) and all(hasattr(value, name) for name in methods)
    if kind is Sequence:
        return _are_items(value, get_args(hint))
    return isinstance(value, kind)


def _class_of(hint: Any) -> type[Any] | None:
    kind: Any = get_origin(hint) or hint
    return cast("type[Any]", kind) if isinstance(kind, type) and kind is not Any else None


def _are_items(value: object, hints: Sequence[object]) -> bool:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return False
    items = cast("Sequence[object]", value)
    return all(_fits(item, hint, UNBOUNDED) for item in items for hint in hints)


def _is_port(kind: type) -> bool:
    return bool(getattr(kind, "_is_protocol", False)) and _is_ours(kind)


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("pillarbox.")


def _is_quantity(value: object, hint: object) -> bool:
    if hint is timedelta:
        return isinstance(value, timedelta)
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (hint is float and isinstance(value, float) and math.isfinite(value))


def _is_class_of(value: type, hint: object) -> bool:
    classes = [one for one in _choices(hint) if isinstance(one, type) and not _is_port(one)]
    return any(issubclass(value, one) for one in classes)


def _allowed(hint: object, bounds: Bounds) -> str:
    choices = _choices(hint)
    said = " or ".join(dict.fromkeys(_noun(one, bounds) for one in choices if one is not NoneType))
    return f"{said}, or None {bounds.none}".rstrip() if NoneType in choices else said


def _noun(hint: Any, bounds: Bounds) -> str:
    if hint in (int, float, timedelta):
        return f"{_NOUNS[hint]}{bounds}"
    if hint in _NOUNS:
        return _NOUNS[hint]
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    kind = _class_of(hint)
    if kind is None:
        return "anything"
    if issubclass(kind, Enum):
        return " or ".join(repr(one.value) for one in kind)
    if kind is Sequence:
        return f"a list or tuple, each {_noun(get_args(hint)[0], UNBOUNDED)}"
    if _is_port(kind):
        return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"
    return _KINDS.get(kind.__name__, f"{kind.__name__}(…)")


def _said(value: Quantity) -> str:
    if not isinstance(value, timedelta):
        return str(value)
    return f"{value.days} days" if value.days and not value.seconds else "zero" if not value else str(value)
