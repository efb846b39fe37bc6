"""``insert_once``: a row is inserted unless one with its key is there."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, overload

from sqlalchemy import Column, Executable, Integer, Table, bindparam, insert, literal_column, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError

from pillarbox.errors import ConfigurationError
from pillarbox.idempotency.joining import Operation, joined
from pillarbox.idempotency.outcomes import Insertion
from pillarbox.idempotency.target import Key, Target, plain, rows_of
from pillarbox.transaction import AsyncTx, Execute, Program, Row, SyncTx

MYSQL = "mysql"
"""The dialect that cannot tell by RETURNING what a statement did; its counts of rows tell less than they seem to."""
DUPLICATE_ENTRY = 1062


@overload
def insert_once(
    tx: AsyncTx, target: Target, values: Mapping[str, object], *, key: Key
) -> Coroutine[Any, Any, Insertion]: ...
@overload
def insert_once(tx: SyncTx, target: Target, values: Mapping[str, object], *, key: Key) -> Insertion: ...
def insert_once(
    tx: AsyncTx | SyncTx, target: Target, values: Mapping[str, object], *, key: Key
) -> Insertion | Coroutine[Any, Any, Insertion]:
    """Insert a row unless one with the same key is there; the answer tells by ``.inserted`` whether it was.

    A concurrent transaction that inserts the same key is waited for: if it commits, the row is there; if it rolls
    back, this one inserts. A violation of any other constraint is raised as ever. Where the transaction reads from a
    snapshot (REPEATABLE READ), a row committed since may have the database ask for the transaction again.

    Args:
        tx: the caller's open transaction; it stays the caller's to commit. A synchronous one needs no ``await``.
        target: a table, or a mapped class.
        values: by column or attribute, those of the key among them.
        key: the columns of a primary key or unique constraint.

    Raises:
        ConfigurationError: a name is unknown, the key is not unique, or the database took two different keys for one.
        NoTransactionError: there is no open transaction; nothing was written.
    """
    rows = rows_of(target)
    names = rows.unique(key)
    plain(values, what="the values")
    if absent := [name for name in names if values.get(name) is None]:
        raise ConfigurationError(f"the values have no {', '.join(absent)}, which is part of the key")
    columns = rows.named(values)
    once = insertion(rows.table, columns, rows.named(names))
    program = partial(_insert_once, once, once.parameters(list(values.values())))
    identity = {rows.columns[name].key: values[name] for name in names}
    return joined(tx, Operation(program, rows.table, identity))


def _insert_once(once: Once, parameters: Mapping[str, object], dialect: str) -> Program[Insertion]:
    inserted = yield from insert_unless_there(once, parameters, dialect)
    return Insertion.INSERTED if inserted else Insertion.THERE


@dataclass(frozen=True, slots=True)
class Once:
    """The statements that insert a row once.

    Attributes:
        unless_there: inserts, and returns a row if it did.
        plainly: inserts, and fails if it cannot.
        there: selects the row's key, by what it is now and not in the transaction's snapshot.
        key: where in the values those of the key are.
    """

    unless_there: Executable
    plainly: Executable
    there: Executable
    key: tuple[int, ...]

    def parameters(self, values: Sequence[object]) -> dict[str, object]:
        """Return the parameters for ``values``, in the order of the columns."""
        return {f"pillarbox_value_{at}": value for at, value in enumerate(values)}


@lru_cache(maxsize=256)
def insertion(table: Table, columns: tuple[Column[Any], ...], key: tuple[Column[Any], ...]) -> Once:
    """Return the statements that insert ``columns``; what an INSERT is conditional on is ``key``."""
    values = {column.key: bindparam(f"pillarbox_value_{at}", type_=column.type) for at, column in enumerate(columns)}
    places = {column: at for at, column in enumerate(columns)}
    unless_there = postgresql.insert(table).values(values).inline()  # SQLite spells it alike
    return Once(
        unless_there=unless_there.on_conflict_do_nothing(index_elements=list(key)).returning(
            literal_column("1", Integer)
        ),
        plainly=insert(table).values(values).inline(),
        there=select(*key).where(*(column == values[column.key] for column in key)).with_for_update(read=True),
        key=tuple(places[column] for column in key),
    )


def insert_unless_there(once: Once, parameters: Mapping[str, object], dialect: str) -> Program[bool]:
    """Insert, and return whether that was done; the row that is there instead may be gone by the next statement."""
    if dialect != MYSQL:
        return bool((yield Execute(once.unless_there, parameters)))
    try:
        yield Execute(once.plainly, parameters)
    except IntegrityError as error:  # undone by itself; the transaction goes on
        number = error.orig.args[0] if error.orig is not None and error.orig.args else None
        if number != DUPLICATE_ENTRY:
            raise
        key = {f"pillarbox_value_{at}": parameters[f"pillarbox_value_{at}"] for at in once.key}
        found = yield Execute(once.there, key)
        if not found:
            raise  # it is another constraint
        refuse_folded(list(key.values()), found[0])
        return False
    return True


def refuse_folded(wanted: Sequence[object], found: Row) -> None:
    """Make sure that the row is of the key that was asked for, and not of one that a loose collation takes for it.

    Raises:
        ConfigurationError: it is of another one; so is the table's collation to be mended.
    """
    for asked, there in zip(wanted, found, strict=False):
        if isinstance(asked, str) and isinstance(there, str) and asked != there:
            raise ConfigurationError(
                f"the database took the key {asked!r} for {there!r}: the column's collation ignores case, accents or "
                "spaces at the end; give the column a binary collation (utf8mb4_bin, or one without padding)"
            )
