"""UPDATE … RETURNING and DELETE … RETURNING, spelled out for MySQL and MariaDB, which lack them.

The rows are locked and read first, and then changed by their primary key, so that what is returned is what was
changed, whoever else is writing. The number of rows that a driver counts decides nothing: drivers count what they
found, not what they changed (DESIGN of the inbox).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar, cast

from sqlalchemy import (
    ColumnElement,
    Delete,
    Executable,
    Table,
    Update,
    and_,
    bindparam,
    select,
    tuple_,
    update,
)

from pillarbox.errors import InternalError
from pillarbox.relational.mysql_keys import by_its_key, deleted_if_found
from pillarbox.transaction import Execute, Program, Row, Rows, step

T = TypeVar("T")

FOUND = "found"


def spelled_out(program: Program[T]) -> Program[T]:
    """Return ``program`` without any RETURNING; it must run in one transaction."""
    with closing(program):
        stepped = step(program)
        while isinstance(stepped, Execute):
            try:
                answer: Rows | Exception = yield from _answer(stepped)
            except Exception as error:  # the program decides
                answer = error
            stepped = step(program, answer)
        return stepped.result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Steps:
    """The statements that a RETURNING consists of.

    Attributes:
        find: selects the primary keys of the rows, and locks them.
        change: changes or deletes the rows of these keys.
        read: selects what was asked for; of rows that are deleted it is part of ``find``.
        keys: the columns of the primary key.
    """

    find: Executable
    change: Executable
    read: Executable | None
    keys: tuple[str, ...]


def _answer(wanted: Execute) -> Program[Rows]:
    steps = _steps(wanted.statement)
    if steps is None:
        return (yield Execute(by_its_key(wanted.statement), wanted.parameters))
    found = yield Execute(steps.find, wanted.parameters)
    if not found:
        return ()
    count = len(steps.keys)
    if steps.read is None:
        yield Execute(steps.change, {FOUND: [dict(zip(steps.keys, row, strict=False)) for row in found]})
        return [row[count:] for row in found]
    these = _keys_of(found, count)
    given = wanted.parameters if isinstance(wanted.parameters, dict) else {}
    yield Execute(steps.change, {**given, **these})
    return (yield Execute(steps.read, these))


@lru_cache(maxsize=256)
def _steps(statement: Executable) -> _Steps | None:
    asked: Sequence[Any] = getattr(statement, "_returning", ())
    if not asked:
        return None
    if not isinstance(statement, (Update, Delete)):
        raise InternalError(f"what an INSERT has inserted cannot be told here without RETURNING: {statement}")
    table, condition = cast("Table[Any]", statement.table), statement.whereclause
    assert condition is not None, "statements choose rows"
    key: list[Any] = list(table.primary_key)
    found = _is_found(key)
    deletes = isinstance(statement, Delete)
    find = select(*key, *(asked if deletes else ())).where(condition).order_by(*key).with_for_update()
    read: Any = None if deletes else select(*asked).where(found)
    change = deleted_if_found(table, FOUND) if deletes else by_its_key(_values_of(statement).where(found))
    return _Steps(find=by_its_key(find), change=change, read=read, keys=tuple(column.name for column in key))


def _values_of(statement: Any) -> Update:
    """Return an UPDATE of the same values, under no condition yet."""
    return update(statement.table).values(statement._values)


def _is_found(key: Sequence[ColumnElement[Any]]) -> ColumnElement[bool]:
    """Return the condition on the primary key; a list for each column too, which lets the index be used."""
    lists: list[ColumnElement[bool]]
    lists = [column.in_(bindparam(f"found_{at}", expanding=True)) for at, column in enumerate(key)]
    return and_(*lists, tuple_(*key).in_(bindparam("found_rows", expanding=True))) if len(key) > 1 else lists[0]


def _keys_of(rows: Sequence[Row], count: int) -> dict[str, object]:
    keys = [tuple(row[:count]) for row in rows]
    lists: dict[str, object] = {f"found_{at}": sorted({key[at] for key in keys}) for at in range(count)}
    return lists if count == 1 else {**lists, "found_rows": keys}
