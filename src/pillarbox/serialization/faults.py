"""Finding values that JSON would lose or change in silence, and naming the path to them.

JSON encoders write NaN as ``null`` and a naive datetime as an instant of nowhere. Both are refused here instead.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from types import NoneType
from typing import Final, NamedTuple, cast
from uuid import UUID

import msgspec

from pillarbox.message.models import field_names, model_kind

MAX_DEPTH: Final = 100
"""How deep values may be nested; deeper bodies serve only to exhaust a reader's stack."""

_SOUND_TYPES: Final = frozenset({NoneType, bool, int, bytes, date, time, timedelta, UUID})
_PLAIN: Final = (int, date, time, timedelta, UUID, bytes, bytearray, memoryview, msgspec.Raw)


class _Field(str):
    """A step of a path that is written as it is; other steps are keys and indices, written in brackets."""

    __slots__ = ()


_KEY: Final = _Field(" (a key)")
_ITEM: Final = _Field("[...]")


class Fault(NamedTuple):
    """Where in a message something is wrong, and what."""

    path: str
    reason: str

    def __str__(self) -> str:
        """Read as a clause of an error."""
        return f"{self.path} {self.reason}"


def find_fault(value: object, *, known_types_only: bool = False) -> Fault | None:
    """Return the first value in the tree that may not travel; ``None`` when all may.

    Args:
        value: A message, or any value inside one.
        known_types_only: Also report values of types that the encoder does not know, which it would refuse itself
            but without saying where.
    """
    found = _fault_below(value, known_types_only=known_types_only, depth=0)
    return None if found is None else Fault("$" + found.path, found.reason)


def is_deeper_than(value: object, limit: int) -> bool:
    """Tell whether decoded builtins are nested deeper than ``limit``; walks level by level, so no stack can run out."""
    level: list[object] = [value]
    for _ in range(limit + 1):
        below: list[object] = []
        for container in level:
            if isinstance(container, dict):
                below += cast("dict[object, object]", container).values()
            elif isinstance(container, list):
                below += cast("list[object]", container)
        if not below:
            return False
        level = below
    return True


def _fault_below(value: object, *, known_types_only: bool, depth: int) -> Fault | None:
    """Find the first fault; its path is put together on the way out, so that a sound message pays nothing for it."""
    kind = type(value)
    if kind in _SOUND_TYPES or (kind is str and cast("str", value).isascii()) or isinstance(value, Enum):
        return None
    if isinstance(value, (str, float, Decimal, datetime)):
        reason = _fault_in_scalar(value)
        return None if reason is None else Fault("", reason)
    if isinstance(value, _PLAIN):
        return None
    if depth > MAX_DEPTH:
        return Fault("", f"is nested deeper than {MAX_DEPTH} levels")
    for step, child in _children(value):
        if known_types_only and step is _KEY and _is_container(child):
            return Fault(_KEY, f"is of type {type(child).__qualname__}, which JSON has no keys of")
        fault = _fault_below(child, known_types_only=known_types_only, depth=depth + 1)
        if fault is not None:
            return Fault(f"{step}{fault.path}" if isinstance(step, _Field) else f"[{step!r}]{fault.path}", fault.reason)
    if known_types_only and not _is_container(value):
        return Fault("", f"is of type {type(value).__qualname__}, which cannot be encoded")
    return None


def _fault_in_scalar(value: str | float | Decimal | datetime) -> str | None:
    if isinstance(value, str):
        return None if value.isascii() or _is_text(value) else "holds a lone surrogate, which is no text"
    if isinstance(value, datetime):
        return "is a naive datetime; give it a time zone" if value.utcoffset() is None else None
    finite = value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)
    return None if finite else f"is {value}, which JSON has no word for"


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_container(value: object) -> bool:
    return isinstance(value, (Mapping, list, tuple, AbstractSet)) or model_kind(type(value)) is not None


def _children(value: object) -> Iterable[tuple[object, object]]:
    """Return what ``value`` contains, each with the step of the path that leads to it."""
    if isinstance(value, Mapping):
        return _entries(cast("Mapping[object, object]", value))
    if isinstance(value, (list, tuple)):
        return enumerate(cast("Sequence[object]", value))
    if isinstance(value, AbstractSet):
        return ((_ITEM, child) for child in cast("AbstractSet[object]", value))
    return _fields(value)


def _entries(mapping: Mapping[object, object]) -> Iterable[tuple[object, object]]:
    for key, child in mapping.items():
        yield _KEY, key
        yield key, child


def _fields(value: object) -> Iterable[tuple[object, object]]:
    for name, step in _steps_of(cast("Hashable", type(value))):
        yield step, getattr(value, name, None)
    extra: object = getattr(value, "__pydantic_extra__", None)  # what a model with extra="allow" keeps
    if isinstance(extra, dict):
        yield from _entries(cast("dict[object, object]", extra))


@lru_cache(maxsize=4_096)
def _steps_of(cls: Hashable) -> tuple[tuple[str, _Field], ...]:
    return tuple((name, _Field(f".{name}")) for name in field_names(cast("type[object]", cls)))
