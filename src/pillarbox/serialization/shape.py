"""What a class can hold, judged once from its annotations: is every message of it to be walked for faults?"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec.inspect as types

from pillarbox.errors import ConfigurationError
from pillarbox.message.models import model_kind

if TYPE_CHECKING:
    from collections.abc import Iterator

_SUSPECT = (types.AnyType, types.DateTimeType, types.DecimalType, types.CustomType)
_WITH_ITEMS = (types.CollectionType, types.VarTupleType, types.ListType, types.SetType, types.FrozenSetType)
_WITH_FIELDS = (types.DataclassType, types.StructType, types.NamedTupleType, types.TypedDictType)


def needs_walk(python_type: type[object]) -> bool:
    """Tell whether a value of ``python_type`` could hold a fault that decoding the encoded form does not show.

    A plain ``float`` needs none: NaN is written as ``null``, which does not decode as a float again.

    Raises:
        ConfigurationError: A field has a type that JSON cannot carry, or an annotation cannot be read.
    """
    try:
        root = types.type_info(python_type)
    except Exception as error:  # an annotation may raise whatever it likes
        msg = f"{_label(python_type)} cannot be carried as JSON: {error}"
        raise ConfigurationError(msg) from error
    found = False
    pending: list[tuple[str, types.Type, bool]] = [("$", root, False)]
    seen: set[type[object]] = set()
    while pending:
        path, one, optional = pending.pop()
        if isinstance(one, types.CustomType) and not _is_carried(one):
            msg = f"{_label(python_type)} cannot be carried as JSON: {path} is of type {_label(one.cls)}"
            raise ConfigurationError(msg)
        found = found or isinstance(one, _SUSPECT) or (optional and isinstance(one, types.FloatType))
        if isinstance(one, (types.DataclassType, types.StructType)):
            if one.cls in seen:
                continue
            seen.add(one.cls)
        pending += [(path + step, child, unsure) for step, child, unsure in _parts(one)]
    return found


def _is_carried(one: types.CustomType) -> bool:
    return one.cls is object or model_kind(one.cls) == "pydantic"


def _parts(one: types.Type) -> Iterator[tuple[str, types.Type, bool]]:
    """Yield the types inside ``one``: the step to them, and whether they may also decode from something else."""
    if isinstance(one, types.Metadata):
        yield "", one.type, False
    elif isinstance(one, types.UnionType):
        for child in one.types:
            yield "", child, True
    elif isinstance(one, types.TupleType):
        for child in one.item_types:
            yield "[...]", child, False
    elif isinstance(one, types.DictType):
        yield " (a key)", one.key_type, True
        yield "[...]", one.value_type, False
    elif isinstance(one, _WITH_FIELDS):
        for field in one.fields:
            yield f".{field.name}", field.type, False
    elif isinstance(one, _WITH_ITEMS):
        yield "[...]", one.item_type, False


def _label(cls: object) -> str:
    return cast("str", getattr(cls, "__qualname__", repr(cls)))
