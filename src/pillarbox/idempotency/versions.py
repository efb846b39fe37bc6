"""Writes of rows that bear a version: an older one never overwrites a newer one."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from functools import lru_cache, partial
from typing import Any, overload

from sqlalchemy import Column, Table, bindparam, or_

from pillarbox.errors import ConfigurationError, ConflictError
from pillarbox.idempotency.exactness import check_version_on, comparable
from pillarbox.idempotency.guarding import Guard, guard, guarded, key_parameters
from pillarbox.idempotency.inserting import Once, insert_unless_there, insertion
from pillarbox.idempotency.joining import Operation, joined
from pillarbox.idempotency.outcomes import VersionedWrite, Write
from pillarbox.idempotency.target import Key, Target, identifying, plain, rows_of
from pillarbox.transaction import AsyncTx, Program, SyncTx

TRIES = 10
"""How often a row may vanish between two looks at it before the transaction had better begin again."""


@overload
def upsert_if_newer(
    tx: AsyncTx, target: Target, values: Mapping[str, object], *, key: Key, version: str = "version"
) -> Coroutine[Any, Any, VersionedWrite]: ...
@overload
def upsert_if_newer(
    tx: SyncTx, target: Target, values: Mapping[str, object], *, key: Key, version: str = "version"
) -> VersionedWrite: ...
def upsert_if_newer(
    tx: AsyncTx | SyncTx, target: Target, values: Mapping[str, object], *, key: Key, version: str = "version"
) -> VersionedWrite | Coroutine[Any, Any, VersionedWrite]:
    """Insert a row, or overwrite it if ``values`` bear a newer version; an older or equal one changes nothing.

    For copies of what another service owns, whose events may come late or twice. Amounts that add up are no such copy:
    use ``apply_once`` for them. A row whose version is NULL counts as older than any.

    Args:
        tx: the caller's open transaction; it stays the caller's to commit. A synchronous one needs no ``await``.
        target: a table, or a mapped class.
        values: the whole row by column or attribute, its key and version among them.
        key: the columns of a primary key or unique constraint.
        version: the column that tells which of two rows is newer.

    Raises:
        ConfigurationError: a name is unknown, the key is not unique, or a value that is needed is not there.
        ConflictError: others keep inserting and deleting the row; begin the transaction again.
        NoTransactionError: there is no open transaction; nothing was written.
    """
    rows = rows_of(target)
    names = rows.unique(key)
    plain(values, what="the values")
    if absent := [name for name in (*names, version) if values.get(name) is None]:
        raise ConfigurationError(f"the values have no {', '.join(absent)}, which must be known to compare the rows")
    if version in names:
        raise ConfigurationError(f"{version!r} is part of the key; a version changes, and a key does not")
    values = {**values, version: comparable(values[version])}
    columns, identity = rows.named(values), rows.named(names)
    once = insertion(rows.table, columns, identity)
    others = tuple(rows.columns[name] for name in values if name not in names)
    newer = _if_newer(rows.table, identity, others, columns, *rows.named([version]))
    key_values = [values[name] for name in names]
    parameters = {**once.parameters(list(values.values())), **key_parameters(key_values)}
    program = partial(_upsert, once, newer, parameters, values[version])
    by_column = dict(zip((column.key for column in identity), key_values, strict=True))
    return joined(tx, Operation(program, rows.table, by_column))


def _upsert(
    once: Once, newer: Guard, parameters: Mapping[str, object], version: object, dialect: str
) -> Program[VersionedWrite]:
    check_version_on(dialect, newer.watched, version)
    inserts = {name: value for name, value in parameters.items() if name.startswith("pillarbox_value_")}
    for _ in range(TRIES):
        seen = yield from guarded(newer, parameters, dialect)
        if seen.row == "written":
            return VersionedWrite(Write.UPDATED, version)
        if seen.row == "kept":
            return VersionedWrite(Write.STALE, seen.value)
        if (yield from insert_unless_there(once, inserts, dialect)):
            return VersionedWrite(Write.INSERTED, version)
    raise ConflictError("the row is inserted and deleted by others again and again; begin the transaction again")


@lru_cache(maxsize=256)
def _if_newer(
    table: Table,
    key: tuple[Column[Any], ...],
    assigned: tuple[Column[Any], ...],
    columns: tuple[Column[Any], ...],
    version: Column[Any],
) -> Guard:
    places = {column: at for at, column in enumerate(columns)}
    values = {column: bindparam(f"pillarbox_value_{places[column]}", type_=column.type) for column in assigned}
    return guard(table, key, values, watched=version, condition=or_(version.is_(None), version < values[version]))


@overload
def update_if_version(
    tx: AsyncTx,
    target: Target,
    values: Mapping[str, object],
    *,
    key: Mapping[str, object],
    expected: object,
    version: str = "version",
) -> Coroutine[Any, Any, VersionedWrite]: ...
@overload
def update_if_version(
    tx: SyncTx,
    target: Target,
    values: Mapping[str, object],
    *,
    key: Mapping[str, object],
    expected: object,
    version: str = "version",
) -> VersionedWrite: ...
def update_if_version(
    tx: AsyncTx | SyncTx,
    target: Target,
    values: Mapping[str, object],
    *,
    key: Mapping[str, object],
    expected: object,
    version: str = "version",
) -> VersionedWrite | Coroutine[Any, Any, VersionedWrite]:
    """Update a row if it still has the version that was read; else tell which it has, or that there is none.

    Args:
        tx: the caller's open transaction; it stays the caller's to commit. A synchronous one needs no ``await``.
        target: a table, or a mapped class.
        values: what is changed, by column or attribute. The new version may be among them; otherwise it is
            ``expected + 1``.
        key: the value of each column that tells the row from all others.
        expected: the version that the caller has read.
        version: the column that each write changes.

    Raises:
        ConfigurationError: a name is unknown, the key names several rows, or no new version can be told.
        NoTransactionError: there is no open transaction; nothing was written.
    """
    rows = rows_of(target)
    plain(values, what="the values")
    names = identifying(key)
    if moved := [name for name in names if name in values]:
        raise ConfigurationError(f"{', '.join(moved)} is part of the key, which an update does not change")
    expected = comparable(expected)
    changed = {**values, version: _next(comparable(values.get(version)), expected, version)}
    identity, columns = rows.named(names), rows.named(changed)
    unchanged = _if_unchanged(rows.table, identity, columns, *rows.named([version]))
    parameters = {
        **key_parameters(list(key.values())),
        **{f"pillarbox_value_{at}": value for at, value in enumerate(changed.values())},
        "pillarbox_expected": expected,
    }
    program = partial(_update, unchanged, parameters, changed[version])
    by_column = dict(zip((column.key for column in identity), key.values(), strict=True))
    return joined(tx, Operation(program, rows.table, by_column))


def _next(given: object, expected: object, version: str) -> object:
    if expected is None:
        raise ConfigurationError(f"expected=None is no {version}; read the row first")
    if given is None and isinstance(expected, int):
        return expected + 1
    if given is None or given == expected:
        raise ConfigurationError(f"the values need a new {version!r}, or the next writer would not notice this write")
    return given


def _update(
    unchanged: Guard, parameters: Mapping[str, object], version: object, dialect: str
) -> Program[VersionedWrite]:
    check_version_on(dialect, unchanged.watched, version)
    seen = yield from guarded(unchanged, parameters, dialect)
    if seen.row == "written":
        return VersionedWrite(Write.UPDATED, version)
    return VersionedWrite(Write.MISSING) if seen.row == "missing" else VersionedWrite(Write.STALE, seen.value)


@lru_cache(maxsize=256)
def _if_unchanged(
    table: Table, key: tuple[Column[Any], ...], assigned: tuple[Column[Any], ...], version: Column[Any]
) -> Guard:
    values = {column: bindparam(f"pillarbox_value_{at}", type_=column.type) for at, column in enumerate(assigned)}
    return guard(
        table, key, values, watched=version, condition=version == bindparam("pillarbox_expected", type_=version.type)
    )
