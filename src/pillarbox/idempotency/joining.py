"""Runs an idempotent operation in the caller's transaction, of either colour."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast, overload

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import InstanceState, Session, scoped_session
from sqlalchemy.orm.attributes import instance_state

from pillarbox.transaction import AsyncTx, Program, SyncTx, Transaction, adopt, adopt_sync, is_synchronous


class Outcome(Protocol):
    """What comes of an operation."""

    @property
    def is_known(self) -> bool:
        """The row is there, as nobody else can change it now: it was written, or locked and looked at."""
        ...


T = TypeVar("T", bound=Outcome)


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """What is to be done to one row.

    Attributes:
        program: does it, by the name of the database's dialect.
        table: where the row is.
        key: by its columns' keys in the table, what tells the row from all others.
    """

    program: Callable[[str], Program[T]]
    table: Table
    key: Mapping[str, object]


@overload
def joined(tx: AsyncTx, operation: Operation[T]) -> Coroutine[Any, Any, T]: ...
@overload
def joined(tx: SyncTx, operation: Operation[T]) -> T: ...
def joined(tx: AsyncTx | SyncTx, operation: Operation[T]) -> T | Coroutine[Any, Any, T]:
    """Do ``operation`` in the transaction of ``tx``, which stays the caller's to commit.

    A session is flushed first; what it has loaded of the row is read again after a write, and where that was refused.

    Raises:
        NoTransactionError: there is no open transaction; nothing was written.
    """
    opened = _opened(tx)
    if not is_synchronous(opened):
        return _awaited(opened, adopt(opened), operation)
    if isinstance(opened, Session):
        return _in_session(operation, opened)
    transaction = adopt_sync(opened)
    return transaction.run(operation.program(transaction.dialect_name))


async def _awaited(opened: object, transaction: Transaction, operation: Operation[T]) -> T:
    if isinstance(opened, AsyncSession):
        return await opened.run_sync(partial(_in_session, operation))
    return await transaction.run(operation.program(transaction.dialect_name))


def _opened(tx: Any) -> Any:
    """Return the session behind a scoped one."""
    is_scoped = isinstance(tx, (scoped_session, async_scoped_session))
    return cast("Callable[[], Any]", tx)() if is_scoped else tx


def _in_session(operation: Operation[T], session: Session) -> T:
    transaction = adopt_sync(session)
    session.flush()
    outcome = transaction.run(operation.program(transaction.dialect_name))
    if outcome.is_known:
        _read_again(session, operation)
    return outcome


def _read_again(session: Session, operation: Operation[Any]) -> None:
    """Refresh what the session has loaded of the row: a later flush would write over it what it holds."""
    for entity in list(session.identity_map.values()):
        state: InstanceState[Any] = instance_state(entity)
        if operation.table in state.mapper.tables and _is_of(state, operation):
            session.refresh(entity)


def _is_of(state: InstanceState[Any], operation: Operation[Any]) -> bool:
    """Tell whether a loaded object may be the row's; one that has expired is known by its primary key alone."""
    mapper = state.mapper
    known: dict[str, object] = {}
    if state.key is not None:
        names = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
        known = dict(zip(names, state.key[1], strict=True))
    known |= state.dict
    columns = {operation.table.c[key]: value for key, value in operation.key.items()}
    wanted = {mapper.get_property_by_column(column).key: value for column, value in columns.items()}
    if state.expired and not known.keys() >= wanted.keys():
        return False  # it is read again when somebody asks for it, and nothing of it can be written before
    return all(known.get(name, value) == value for name, value in wanted.items())
