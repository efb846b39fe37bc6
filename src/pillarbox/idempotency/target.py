"""The rows that an idempotent operation writes: a table or a mapped class, and its columns by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, cast

from sqlalchemy import Column, PrimaryKeyConstraint, Table, UniqueConstraint
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import QueryableAttribute, class_mapper
from sqlalchemy.orm.exc import UnmappedClassError
from sqlalchemy.sql import ClauseElement

from pillarbox.errors import ConfigurationError

Target: TypeAlias = Table | type[Any]
"""A Core table, or a class that the ORM maps to one table."""
Named: TypeAlias = str | Column[Any] | QueryableAttribute[Any]
"""A column: its key in the table, the name of the attribute, or either of the two itself."""
Key: TypeAlias = Named | Sequence[Named]
"""The columns that tell one row from all others."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a target.

    Attributes:
        table: where they are.
        columns: by the names that callers use.
    """

    table: Table
    columns: Mapping[str, Column[Any]]

    def named(self, names: Iterable[str]) -> tuple[Column[Any], ...]:
        """Return the columns of ``names``.

        Raises:
            ConfigurationError: there is no such column.
        """
        wanted = tuple(names)
        if unknown := [name for name in wanted if name not in self.columns]:
            raise ConfigurationError(
                f"{self.table.fullname} has no column {', '.join(map(repr, unknown))}; it has {', '.join(self.columns)}"
            )
        return tuple(self.columns[name] for name in wanted)

    def unique(self, key: Key) -> tuple[str, ...]:
        """Return the names of ``key``, which no two rows have in common.

        Raises:
            ConfigurationError: the table is not known to have such a constraint.
        """
        names = tuple(map(self._name, [key] if isinstance(key, (str, Column, QueryableAttribute)) else key))
        columns = set(self.named(names))
        if columns not in self._constraints():
            raise ConfigurationError(
                f"{self.table.fullname} has no primary key or unique constraint on ({', '.join(names)}), so that two "
                "rows could have it in common; create one and declare it on the table"
            )
        return names

    def _name(self, named: Named) -> str:
        if isinstance(named, str):
            return named
        if isinstance(named, QueryableAttribute):
            return named.key
        return next((name for name, column in self.columns.items() if column is named), str(named.key))

    def _constraints(self) -> list[set[Column[Any]]]:
        """Return each set of columns that no two rows have in common."""
        keys = [one for one in self.table.constraints if isinstance(one, (PrimaryKeyConstraint, UniqueConstraint))]
        indexes = [one for one in self.table.indexes if one.unique]
        return [set(one.columns) for one in (*keys, *indexes)]


def rows_of(target: Target) -> Rows:
    """Return the rows of ``target``.

    Raises:
        ConfigurationError: it is no table, or a class whose rows are not those of one table.
    """
    hashable: Any = target
    return _rows_of(hashable)


@lru_cache(maxsize=256)
def _rows_of(target: Target) -> Rows:
    if isinstance(target, Table):
        return Rows(target, {column.key: column for column in target.columns})
    try:
        mapper = class_mapper(target)
    except (ArgumentError, UnmappedClassError) as error:
        raise ConfigurationError(f"{target!r} is neither a Table nor a mapped class") from error
    table: Any = mapper.local_table
    is_shared = mapper.polymorphic_on is not None or mapper.inherits is not None or not isinstance(table, Table)
    if is_shared:
        raise ConfigurationError(
            f"the rows of {target.__qualname__} are shared with other classes, or lie in several tables; give the Table"
        )
    columns = {attribute.key: attribute.columns[0] for attribute in mapper.column_attrs}
    return Rows(cast("Table", table), {key: column for key, column in columns.items() if isinstance(column, Column)})


def plain(values: Mapping[str, object], *, what: str) -> None:
    """Make sure that ``values`` are data.

    Raises:
        ConfigurationError: one of them is an SQL expression.
    """
    if found := [name for name, value in values.items() if isinstance(value, ClauseElement)]:
        raise ConfigurationError(f"{what} {', '.join(found)} must be plain values, not SQL expressions")


def identifying(key: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names in ``key``.

    Raises:
        ConfigurationError: it names no row.
    """
    plain(key, what="the key")
    if empty := [name for name, value in key.items() if value is None]:
        raise ConfigurationError(f"the key's {', '.join(empty)} is None, which no row has; flush first, or give it")
    if not key:
        raise ConfigurationError("key= names no column; give those that tell the row from all others")
    return tuple(key)
