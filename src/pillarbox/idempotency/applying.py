"""``apply_once``: increments are added once per operation, however often and in whatever order operations come."""

from __future__ import annotations

import json
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any, TypeAlias, overload

from sqlalchemy import (
    BigInteger,
    Column,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    func,
    literal,
    select,
    true,
)

from pillarbox.errors import ConfigurationError
from pillarbox.idempotency.exactness import check_amount, check_amount_on, digits_of
from pillarbox.idempotency.fitting import fitting
from pillarbox.idempotency.guarding import Guard, guard, guarded, key_parameters
from pillarbox.idempotency.inserting import MYSQL, insert_unless_there, insertion
from pillarbox.idempotency.joining import Operation, joined
from pillarbox.idempotency.outcomes import Application
from pillarbox.idempotency.target import Target, identifying, plain, rows_of
from pillarbox.transaction import AsyncTx, Execute, Program, SyncTx, now_us

Amount: TypeAlias = int | Decimal
MAX_SCOPE_CHARS = 200

applied = Table(  # as these statements see it; its types are those of `relational.tables`
    "pillarbox_applied_operations",
    MetaData(),
    Column("scope", String, primary_key=True),
    Column("operation_id", String, primary_key=True),
    Column("fingerprint", String, nullable=False),
    Column("applied_at", BigInteger, nullable=False, default=now_us()),
)
RECORD = insertion(applied, tuple(applied.c)[:3], tuple(applied.c)[:2])
_is_it = (
    applied.c.scope == bindparam("pillarbox_value_0", type_=String),
    applied.c.operation_id == bindparam("pillarbox_value_1", type_=String),
)
UNRECORD = delete(applied).where(*_is_it)
FINGERPRINT = select(applied.c.fingerprint).where(*_is_it).with_for_update(read=True)


@overload
def apply_once(
    tx: AsyncTx,
    target: Target,
    increments: Mapping[str, Amount],
    *,
    key: Mapping[str, object],
    operation: str,
    scope: str | None = None,
) -> Coroutine[Any, Any, Application]: ...
@overload
def apply_once(
    tx: SyncTx,
    target: Target,
    increments: Mapping[str, Amount],
    *,
    key: Mapping[str, object],
    operation: str,
    scope: str | None = None,
) -> Application: ...
def apply_once(
    tx: AsyncTx | SyncTx,
    target: Target,
    increments: Mapping[str, Amount],
    *,
    key: Mapping[str, object],
    operation: str,
    scope: str | None = None,
) -> Application | Coroutine[Any, Any, Application]:
    """Add ``increments`` to a row unless this operation has been applied before.

    What was applied is recorded in the same transaction, so a duplicate adds nothing. Nothing is asked about order: a
    payment that comes late is added like any other. Where there is no such row nothing is recorded either, so that a
    later try can apply the operation. A column that is NULL counts as zero.

    Args:
        tx: the caller's open transaction; it stays the caller's to commit. A synchronous one needs no ``await``.
        target: a table, or a mapped class.
        increments: what is added to each column: ``int``, or ``Decimal`` where the column keeps decimals exactly.
        key: the value of each column that tells the row from all others.
        operation: what is done, the same at every try: in a handler ``ctx.idempotency_key("debit")``.
        scope: whose operations they are; the name of the table unless given.

    Raises:
        ConfigurationError: an amount cannot be added exactly, a name is unknown, the key names several rows, or the
            same operation has added something else before.
        NoTransactionError: there is no open transaction; nothing was written.
    """
    rows = rows_of(target)
    columns, identity = rows.named(increments), rows.named(identifying(key))
    plain(increments, what="the increments")
    if not columns or not operation:
        raise ConfigurationError("apply_once needs increments= and the operation= that they are part of")
    for column, amount in zip(columns, increments.values(), strict=True):
        check_amount(column, amount)
    by_column = dict(zip((column.key for column in identity), key.values(), strict=True))
    added = dict(zip((column.key for column in columns), increments.values(), strict=True))
    record = Recorded(
        scope=_scope(rows.table.fullname if scope is None else scope),
        operation=fitting(operation),
        fingerprint=_fingerprint(rows.table.fullname, by_column, added),
    )
    amounts = {f"pillarbox_value_{at}": amount for at, amount in enumerate(increments.values())}
    parameters = {**key_parameters(list(key.values())), **amounts}
    program = partial(_apply, record, _increments(rows.table, identity, columns), columns, parameters)
    return joined(tx, Operation(program, rows.table, by_column))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An operation as it is recorded.

    Attributes:
        fingerprint: of the row and the increments, so that an id used twice for different things is noticed.
    """

    scope: str
    operation: str
    fingerprint: str


def _apply(
    record: Recorded,
    increments: Guard,
    columns: Sequence[Column[Any]],
    parameters: Mapping[str, object],
    dialect: str,
) -> Program[Application]:
    for at, column in enumerate(columns):
        check_amount_on(dialect, column, parameters[f"pillarbox_value_{at}"])
    recorded = RECORD.parameters([record.scope, record.operation, record.fingerprint])
    if not (yield from insert_unless_there(RECORD, recorded, dialect)):
        yield from _refuse_another(record, recorded)
        return Application.DUPLICATE
    try:
        seen = yield from guarded(increments, parameters, dialect)
    except ConfigurationError:
        if dialect == MYSQL:  # it was found out before anything was added
            yield Execute(UNRECORD, recorded)
        raise
    if seen.row == "missing":
        yield Execute(UNRECORD, recorded)
        return Application.MISSING
    return Application.APPLIED


def _refuse_another(record: Recorded, recorded: Mapping[str, object]) -> Program[None]:
    """Make sure that what was applied under this id is what is to be applied now.

    Raises:
        ConfigurationError: it is something else, which would be lost if this passed for a duplicate.
    """
    found = yield Execute(FINGERPRINT, recorded)
    if found and found[0][0] != record.fingerprint:
        raise ConfigurationError(
            f"the operation {record.operation!r} in scope {record.scope!r} has added something else, or to another "
            "row; give each its own id, as in f'{operation}:debit', and each consumer its own scope="
        )


@lru_cache(maxsize=256)
def _increments(table: Table, key: tuple[Column[Any], ...], columns: tuple[Column[Any], ...]) -> Guard:
    sums = {
        column: func.coalesce(column, literal(0, type_=column.type))
        + bindparam(f"pillarbox_value_{at}", type_=column.type)
        for at, column in enumerate(columns)
    }
    return guard(table, key, sums, watched=key[0], condition=true())


def _scope(scope: str) -> str:
    if not 0 < len(scope) <= MAX_SCOPE_CHARS:
        raise ConfigurationError(f"scope= has {len(scope)} characters; give 1 to {MAX_SCOPE_CHARS}")
    return scope


def _fingerprint(table: str, key: Mapping[str, object], increments: Mapping[str, Amount]) -> str:
    """Return a digest of what is added to which row; values count by their text, however they are spelled in Python."""
    row = sorted((name, str(value)) for name, value in key.items())
    amounts = sorted((name, digits_of(amount)) for name, amount in increments.items())
    return sha256(json.dumps([table, row, amounts]).encode()).hexdigest()
