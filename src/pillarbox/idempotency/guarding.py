"""A write to one row under a condition, which tells why it did not write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Column, ColumnElement, Executable, Table, and_, bindparam, select, update

from pillarbox.errors import ConfigurationError, InternalError
from pillarbox.idempotency.inserting import MYSQL, refuse_folded
from pillarbox.transaction import Execute, Program, Row, Rows


@dataclass(frozen=True, slots=True)
class Seen:
    """What a guarded write found.

    Attributes:
        row: ``written``, ``kept`` as it was since the condition does not hold, or ``missing``.
        value: what the watched column of a kept row has.
    """

    row: Literal["written", "kept", "missing"]
    value: Any = None


@dataclass(frozen=True, slots=True)
class Guard:
    """The statements of a guarded write.

    Attributes:
        change: writes where the condition holds.
        changed: the same, and returns the row's key if it did.
        look: locks the row; selects its key, the watched column, and whether the condition holds.
        key: the names of the parameters that are the key.
        watched: the column that the condition is about.
    """

    change: Executable
    changed: Executable
    look: Executable
    key: tuple[str, ...]
    watched: Column[Any]


def key_parameters(key: Sequence[object]) -> dict[str, object]:
    """Return the parameters of a row's key, in the order of its columns."""
    return {f"pillarbox_key_{at}": value for at, value in enumerate(key)}


def guard(
    table: Table,
    key: Sequence[Column[Any]],
    assigned: Mapping[Column[Any], ColumnElement[Any]],
    *,
    watched: Column[Any],
    condition: ColumnElement[Any],
) -> Guard:
    """Return the statements that assign where ``condition`` holds in the row of ``key``."""
    parameters = [bindparam(f"pillarbox_key_{at}", type_=column.type) for at, column in enumerate(key)]
    is_it = and_(*(column == parameter for column, parameter in zip(key, parameters, strict=True)))
    change = update(table).where(is_it, condition).values({column.key: value for column, value in assigned.items()})
    return Guard(
        change=change,
        changed=change.returning(*key),
        look=select(*key, watched, condition.label("holds")).where(is_it).with_for_update(),
        key=tuple(parameter.key for parameter in parameters),
        watched=watched,
    )


def guarded(guard: Guard, parameters: Mapping[str, object], dialect: str) -> Program[Seen]:
    """Write where the condition holds; else lock the row and look why not.

    Where no RETURNING tells what was written, the row is locked first. The number of rows that a driver counts
    decides nothing: drivers count what they found, not what they changed.
    """
    for _ in range(2):
        if dialect != MYSQL and (written := (yield Execute(guard.changed, parameters))):
            _only(written, guard, parameters, dialect)
            return Seen("written")
        found = yield Execute(guard.look, parameters)
        if not found:
            return Seen("missing")
        *_, value, holds = _only(found, guard, parameters, dialect)
        if not holds:
            return Seen("kept", value)
        if dialect == MYSQL:
            yield Execute(guard.change, parameters)
            return Seen("written")
    raise InternalError("a row that is locked was not written though its condition holds")


def _only(rows: Rows, guard: Guard, parameters: Mapping[str, object], dialect: str) -> Row:
    """Return the only row.

    Raises:
        ConfigurationError: there are several, or it is not the row that was asked for; the transaction must end.
    """
    key = [parameters[name] for name in guard.key]
    if len(rows) > 1:
        raise ConfigurationError(f"key= must name one row, and {key} names {len(rows)}; roll the transaction back")
    if dialect == MYSQL:
        refuse_folded(key, rows[0])
    return rows[0]
