"""The three ways to write a message class, told apart without importing any of their libraries."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Iterable

ModelKind: TypeAlias = Literal["dataclass", "struct", "pydantic"]


def model_kind(cls: type[object]) -> ModelKind | None:
    """Return how ``cls`` is written; ``None`` if it is none of the three.

    Pydantic comes first, for its dataclasses are dataclasses too and must be validated by it.
    """
    if hasattr(cls, "__pydantic_validator__"):
        return "pydantic"
    if hasattr(cls, "__struct_fields__"):
        return "struct"
    if dataclasses.is_dataclass(cls):
        return "dataclass"
    return None


def field_names(cls: type[object]) -> tuple[str, ...]:
    """Return the names of the fields of a message class, in order; empty for other classes."""
    match model_kind(cls):
        case "struct":
            return tuple(cast("Iterable[str]", getattr(cls, "__struct_fields__", ())))
        case "pydantic" if not dataclasses.is_dataclass(cls):
            # The first is where pydantic keeps them since 2.10; the second works before.
            fields: object = getattr(cls, "__pydantic_fields__", None) or getattr(cls, "model_fields", {})
            return tuple(cast("Iterable[str]", fields))
        case "pydantic" | "dataclass":
            return tuple(cast("Iterable[str]", getattr(cls, "__dataclass_fields__", ())))
        case None:
            return ()
