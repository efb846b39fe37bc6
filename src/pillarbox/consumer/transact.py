"""The shells around a run: they execute its statements and invoke its handlers, awaited or in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from pillarbox.consumer.context import Context
from pillarbox.consumer.effects import Effect, Invoke, Raised, Returned
from pillarbox.consumer.ending import ending_words
from pillarbox.consumer.injection import CONTEXTS, Providers
from pillarbox.consumer.report import RunReport
from pillarbox.consumer.run import RunProgram
from pillarbox.consumer.spec import Consumer
from pillarbox.consumer.stray import failure_of, stray
from pillarbox.errors import TransactionEndedError, TransientError
from pillarbox.transaction import (
    Execute,
    OpenSyncTransaction,
    OpenTransaction,
    Program,
    Rows,
    TransactionSource,
)
from pillarbox.transaction.threads import in_thread

SAVEPOINT = Execute(text("SAVEPOINT pillarbox_handler"))
"""Never released: one statement for each message, not two; a later one of the same name stands before it."""
GO_BACK = Execute(text("ROLLBACK TO SAVEPOINT pillarbox_handler"))
ABORTED = "25P02"
"""What PostgreSQL answers to every statement of a transaction in which one has failed."""
LONGEST_CHAIN = 5
"""How many causes of causes are looked at."""


class _Lending(AbstractContextManager[None]):
    """A block that a handler runs in; a class, since there is one for every message."""

    is_under_way = False

    def __enter__(self) -> None:
        self.is_under_way = True

    def __exit__(self, *_: object) -> None:
        self.is_under_way = False


class HandlerWatch:
    """Sees whether a handler touches the run's transaction, and does not let it commit.

    The transaction holds the inbox rows of the whole run: a commit in its midst would lose the messages behind it.
    """

    def __init__(self, connection: Connection, *, consumer: str) -> None:
        """Watch ``connection`` from now on."""
        self.statements = 0
        self._connection = connection
        self._began = connection.get_transaction()
        self._consumer = consumer
        self._lending = _Lending()
        self._calls = 0
        event.listen(connection, "before_cursor_execute", self._count)
        event.listen(connection, "commit", self._refuse)

    def lent(self) -> AbstractContextManager[None]:
        """Refuse to commit within the block."""
        self._calls += 1
        return self._lending

    def returned(self, value: object, *, began: Any) -> Returned | Raised:
        """Return what came of a handler that returned ``value``; ``began`` is the transaction that it was lent."""
        if self._connection.invalidated:
            lost = "its connection was lost while the handler had it, and the handler went on as if nothing were"
            return Raised(TransientError(f"{self._consumer}: {lost}"), touched=True)
        if self._connection.get_transaction() is not began or not is_active(began):
            return Raised(TransactionEndedError(consumer=self._consumer), touched=True)
        return Returned(value)

    def failed(self, error: Exception, *, before: int, began: Any) -> Raised:
        """Return what came of a handler that raised ``error`` and found ``before`` statements executed."""
        touched = self.statements > before or self._connection.invalidated or not is_active(began)
        inherited = self._calls > 1 and self.statements <= before + 1 and has_found_it_aborted(error)
        return Raised(error, touched=touched, inherited=inherited)

    def can_go_back(self, answer: Raised) -> bool:
        """Tell whether what a handler wrote before it failed can be taken back alone.

        A transaction that it ended, a savepoint that it left open and a connection that was closed, given up, or left
        in pipeline mode, are for the whole run to be rolled back.
        """
        is_lost = self._connection.closed or self._connection.invalidated
        if not answer.touched or is_lost or _is_in_pipeline(self._connection):
            return False
        is_same = self._connection.get_transaction() is self._began and is_active(self._began)
        return is_same and not self._connection.in_nested_transaction()

    def _count(self, connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if self._lending.is_under_way and (words := ending_words(statement, connection.dialect.name)) is not None:
            raise TransactionEndedError(consumer=self._consumer, refused=words)
        self.statements += 1

    def _refuse(self, *_: object) -> None:
        if self._lending.is_under_way:
            raise TransactionEndedError(consumer=self._consumer)


def _is_in_pipeline(connection: Connection) -> bool:
    """Tell whether psycopg is in pipeline mode, in which statements seem to return no rows."""
    of_psycopg: Any = getattr(connection.connection.driver_connection, "pgconn", None)
    return of_psycopg is not None and bool(of_psycopg.pipeline_status)


class Caution:
    """Which invocations of a run stand behind a savepoint: those after the first ``trusted`` ones."""

    def __init__(self, trusted: int | None) -> None:
        """Trust all for ``None``."""
        self._trusted = trusted

    def guards(self, wish: Invoke) -> bool:
        """Count an invocation, and tell whether it stands behind a savepoint."""
        if self._trusted is None or len(wish.contexts) > 1:
            return False
        self._trusted -= 1
        return self._trusted < 0


class AsyncShell:
    """Runs on an asynchronous connection, for handlers declared with ``async def``."""

    def __init__(self, consumer: Consumer, *, source: TransactionSource, providers: Providers) -> None:
        """Invoke the handler of ``consumer``."""
        self._consumer = consumer
        self._source = source
        self._providers = providers

    async def transact(self, program: RunProgram, *, trusted: int | None = None) -> RunReport:
        """Run ``program`` in one transaction and commit it."""
        async with self._source.begin(shared=True) as transaction:
            watch = HandlerWatch(sync_side(transaction.connection), consumer=self._consumer.identity)
            caution = Caution(trusted)
            wanted = advance(program, None)
            while not isinstance(wanted, RunReport):
                if isinstance(wanted, Invoke):
                    invoke = self._invoke_guarded if caution.guards(wanted) else self._invoke
                    answer: Any = await invoke(wanted, transaction, watch)
                else:
                    answer = await transaction.run(single(wanted))
                wanted = advance(program, answer)
        return wanted

    async def _invoke_guarded(
        self, wish: Invoke, transaction: OpenTransaction, watch: HandlerWatch
    ) -> Returned | Raised:
        await transaction.run(single(SAVEPOINT))
        answer = await self._invoke(wish, transaction, watch)
        if isinstance(answer, Raised) and watch.can_go_back(answer):
            with suppress(DBAPIError):  # some databases end the transaction themselves, as at a deadlock
                await transaction.run(single(GO_BACK))
                return Raised(answer.error, touched=False)
        return answer

    async def _invoke(self, wish: Invoke, transaction: OpenTransaction, watch: HandlerWatch) -> Returned | Raised:
        before, began = watch.statements, sync_side(transaction.connection).get_transaction()
        limit = _seconds(self._consumer)
        try:
            with watch.lent():
                async with nullcontext() if limit is None else asyncio.timeout(limit):
                    value = await self._call(wish, transaction.connection)
        except (Exception, asyncio.CancelledError) as caught:
            error = failure_of(caught)
            if error is not caught or isinstance(error, TimeoutError):
                await transaction.connection.invalidate()  # it may have been cut off in mid-statement
                return Raised(error, touched=True)
            return watch.failed(error, before=before, began=began)
        return watch.returned(value, began=began)

    async def _call(self, wish: Invoke, connection: AsyncConnection) -> object:
        consumer = self._consumer
        return await called(
            consumer.handler,
            (wish.payload,),
            consumer.signature.wants,
            asked=wish.asked,
            providers=self._providers,
            connection=connection,
        )


async def called(
    function: Callable[..., Any],
    given: tuple[object, ...],
    wants: Mapping[str, type[object]],
    *,
    asked: Callable[[object], object | None],
    providers: Providers,
    connection: AsyncConnection,
) -> object:
    """Call an asynchronous ``function`` with ``given`` and what it wants, within the transaction of ``connection``.

    A session is fresh for each call and flushed after it.
    """
    others: dict[str, object] = {}
    session: AsyncSession | None = None
    for name, kind in wants.items():
        if kind is AsyncConnection:
            others[name] = connection
        elif kind is AsyncSession:
            session = session or AsyncSession(
                bind=connection, join_transaction_mode="rollback_only", expire_on_commit=False
            )
            others[name] = session
        else:
            others[name] = asked(kind) or await providers.get(kind)
    try:
        value: object = await function(*given, **others)
        if session is not None:
            await session.flush()
    finally:
        if session is not None:
            session.expunge_all()
    return value


class SyncShell:
    """Runs in a thread on a connection of its own, for plain functions that ask for a transaction."""

    def __init__(self, consumer: Consumer, *, source: TransactionSource, providers: Providers) -> None:
        """Invoke the handler of ``consumer``."""
        self._consumer = consumer
        self._source = source
        self._providers = providers

    async def transact(self, program: RunProgram, *, trusted: int | None = None) -> RunReport:
        """Run ``program`` in one transaction of a thread and commit it.

        A thread cannot be stopped: when this is cancelled, the thread ends its run first.
        """
        try:
            provided = {
                kind: await self._providers.get(kind)
                for kind in self._consumer.signature.wants.values()
                if kind not in (Connection, Session, Context, CONTEXTS)
            }
        except asyncio.CancelledError as error:
            raise stray(error) from error
        return await in_thread(partial(self._in_thread, program, provided, Caution(trusted)))

    def _in_thread(self, program: RunProgram, provided: dict[type[object], object], caution: Caution) -> RunReport:
        with self._source.begin_sync(shared=True) as transaction:
            watch = HandlerWatch(transaction.connection, consumer=self._consumer.identity)
            wanted = advance(program, None)
            while not isinstance(wanted, RunReport):
                if isinstance(wanted, Invoke):
                    invoke = self._invoke_guarded if caution.guards(wanted) else self._invoke
                    answer: Any = invoke(wanted, transaction, watch, provided)
                else:
                    answer = transaction.run(single(wanted))
                wanted = advance(program, answer)
        return wanted

    def _invoke_guarded(
        self,
        wish: Invoke,
        transaction: OpenSyncTransaction,
        watch: HandlerWatch,
        provided: dict[type[object], object],
    ) -> Returned | Raised:
        transaction.run(single(SAVEPOINT))
        answer = self._invoke(wish, transaction, watch, provided)
        if isinstance(answer, Raised) and watch.can_go_back(answer):
            with suppress(DBAPIError):  # as above
                transaction.run(single(GO_BACK))
                return Raised(answer.error, touched=False)
        return answer

    def _invoke(
        self,
        wish: Invoke,
        transaction: OpenSyncTransaction,
        watch: HandlerWatch,
        provided: dict[type[object], object],
    ) -> Returned | Raised:
        before, began = watch.statements, transaction.connection.get_transaction()
        try:
            with watch.lent():
                value = self._call(wish, transaction.connection, provided)
        except (Exception, asyncio.CancelledError) as caught:
            return watch.failed(failure_of(caught), before=before, began=began)
        return watch.returned(value, began=began)

    def _call(self, wish: Invoke, connection: Connection, provided: Mapping[type[object], object]) -> object:
        consumer = self._consumer
        return called_sync(
            consumer.handler,
            (wish.payload,),
            consumer.signature.wants,
            asked=wish.asked,
            provided=provided,
            connection=connection,
        )


def called_sync(
    function: Callable[..., object],
    given: tuple[object, ...],
    wants: Mapping[str, type[object]],
    *,
    asked: Callable[[object], object | None],
    provided: Mapping[type[object], object],
    connection: Connection,
) -> object:
    """Call a plain ``function`` with ``given`` and what it wants, within the transaction of ``connection``."""
    others: dict[str, object] = {}
    session: Session | None = None
    for name, kind in wants.items():
        if kind is Connection:
            others[name] = connection
        elif kind is Session:
            session = session or Session(bind=connection, join_transaction_mode="rollback_only", expire_on_commit=False)
            others[name] = session
        else:
            others[name] = asked(kind) or provided[kind]
    try:
        value = function(*given, **others)
        if session is not None:
            session.flush()
    finally:
        if session is not None:
            session.expunge_all()
    return value


def advance(program: RunProgram, answer: Any) -> Effect | RunReport:
    """Tell ``program`` what came of its last wish; return the next one, or the report at its end."""
    try:
        return program.send(answer)
    except StopIteration as end:
        report: RunReport = end.value
        return report


def single(effect: Execute) -> Program[Rows]:
    """Return a program of the one statement ``effect``."""

    def program() -> Generator[Execute, Rows, Rows]:
        return (yield effect)

    return program()


def sync_side(connection: AsyncConnection) -> Connection:
    """Return the connection beneath an asynchronous one that was started."""
    inner = connection.sync_connection
    assert inner is not None, "the transaction's connection was never started"
    return inner


def has_found_it_aborted(error: BaseException) -> bool:
    """Tell whether ``error`` says that an earlier statement has failed, whose error somebody has passed over."""
    cause: BaseException | None = error
    for _ in range(LONGEST_CHAIN):  # an error may be its own cause
        if cause is None or isinstance(cause, DBAPIError):
            break
        cause = cause.__context__ if cause.__cause__ is None else cause.__cause__
    return isinstance(cause, DBAPIError) and getattr(cause.orig, "sqlstate", None) == ABORTED


def is_active(transaction: Any) -> bool:
    """Tell whether ``transaction`` has not ended."""
    return transaction is not None and bool(transaction.is_active)


def _seconds(consumer: Consumer) -> float | None:
    timeout = consumer.options.timeout
    return None if timeout is None else timeout.total_seconds()
