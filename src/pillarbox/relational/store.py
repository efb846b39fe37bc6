"""An SQL database as the store of one box: transactions, and an adapter for each port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import replace
from datetime import timedelta
from functools import partial
from threading import Lock
from typing import NoReturn, TypeVar

from sqlalchemy import Connection, Engine, Executable
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pillarbox.errors import ConflictError, StoreUnavailableError
from pillarbox.errors.reading import text_of
from pillarbox.errors.waiting import DOES_IT_KNOW_US
from pillarbox.relational.absence import refuse_no_text, says_that_tables_are_absent
from pillarbox.relational.breakers import RelationalCircuitStore
from pillarbox.relational.calls import RelationalCallStore
from pillarbox.relational.consumers import RelationalConsumerRegistry
from pillarbox.relational.cursor import RelationalRelayMarks
from pillarbox.relational.dead_letters import RelationalDeadLetterStore
from pillarbox.relational.flows import relational_flows
from pillarbox.relational.gaps import RelationalGaps, RelationalSkippedStore
from pillarbox.relational.holding import RelationalHoldingStore
from pillarbox.relational.idempotency import RelationalAttemptStore, RelationalClaimStore, RelationalInboxStore
from pillarbox.relational.inspection import RelationalInspection
from pillarbox.relational.key_numbers import RelationalKeyNumbers
from pillarbox.relational.leases import RelationalLeaseStore
from pillarbox.relational.migrations import Migration, absent_tables, as_sql, check_version, migrate
from pillarbox.relational.operations import RelationalOperationStore
from pillarbox.relational.operators import RelationalOperators
from pillarbox.relational.outbox import RelationalOutboxStore, RelationalSlotReader
from pillarbox.relational.outbox_held import RelationalHeldRecords, RelationalParkedRecords
from pillarbox.relational.participations import RelationalParticipationStore
from pillarbox.relational.published import RelationalPublishedRecords
from pillarbox.relational.queue import RelationalQueueStore
from pillarbox.relational.saga_archive import RelationalSagaArchive
from pillarbox.relational.saga_locks import RelationalSagaLockStore
from pillarbox.relational.sagas import RelationalSagaStore
from pillarbox.relational.sequences import RelationalPositions
from pillarbox.relational.silence import Patience
from pillarbox.relational.traits import DatabaseTraits
from pillarbox.relational.transfer import RelationalTransfer
from pillarbox.relational.waits import RelationalWaitStore
from pillarbox.transaction import Execute, Program, Rows, Transaction, TransactionSource, drive_sync, step
from pillarbox.transaction.sqlalchemy_ import AsyncConnectionTransaction, ConnectionTransaction, execute_on
from pillarbox.transaction.threads import in_thread

T = TypeVar("T")
TURN_WITHIN_S = 30
IN_A_FILE = "check that the file is a database, and that this user may open and write it and its folder"
"""How long a transaction waits for another one of its process where there is a single writer."""


class OwnTransaction(AsyncConnectionTransaction):
    """A transaction begun here."""

    def __init__(self, connection: AsyncConnection, patience: Patience) -> None:
        """Run programs on ``connection``, each with ``patience``."""
        super().__init__(connection)
        self.connection = connection
        self._patience = patience

    async def run(self, program: Program[T]) -> T:
        """Run ``program`` on the connection."""
        async with self._patience.for_answer(self.connection):
            return await super().run(program)


class OwnSyncTransaction(ConnectionTransaction):
    """A transaction begun here, for a thread."""

    def __init__(self, connection: Connection) -> None:
        """Run programs on ``connection``."""
        super().__init__(connection)
        self.connection = connection


class RelationalStore(TransactionSource):
    """The store of a box on one SQL database."""

    transaction_type: type[OwnTransaction] = OwnTransaction
    sync_transaction_type: type[OwnSyncTransaction] = OwnSyncTransaction
    numbers_type: type[RelationalKeyNumbers] = RelationalKeyNumbers

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        sync_engine: Engine | Callable[[], Engine],
        traits: DatabaseTraits,
        owns_engine: bool,
    ) -> None:
        """Use ``engine``; ``sync_engine`` is the caller's, or makes one for threads when it is first asked for."""
        self.engine = engine
        self.traits = traits
        self._patience = Patience(traits.name, traits.sever)
        self._limits = None if traits.begins_bounded else traits.lock_wait
        self._brief_limits: Executable | None = None
        self.wait_within(self._patience.within)
        self.numbers = self.numbers_type()
        self.outbox = RelationalOutboxStore(traits.key_locks, self.numbers)
        self.slots = RelationalSlotReader(
            traits.key_locks, writes_in_with=traits.writes_in_with, horizon=traits.horizon
        )
        self.held_records = RelationalHeldRecords()
        self.transfer = RelationalTransfer(self.held_records)
        self.parked = RelationalParkedRecords()
        self.published = RelationalPublishedRecords(traits.key_locks, removed_by_row=traits.removed_by_row)
        self.marks = RelationalRelayMarks(None if traits.log is None else traits.log.checkpoints)
        self.leases = RelationalLeaseStore()
        self.queue = RelationalQueueStore()
        self.inbox = RelationalInboxStore()
        self.attempts = RelationalAttemptStore()
        self.claims = RelationalClaimStore()
        self.operations = RelationalOperationStore()
        self.calls = RelationalCallStore()
        self.holding = RelationalHoldingStore()
        self.positions = RelationalPositions()
        self.gaps = RelationalGaps()
        self.skipped = RelationalSkippedStore()
        self.waits = RelationalWaitStore()
        self.dead_letters = RelationalDeadLetterStore()
        self.operators = RelationalOperators()
        self.consumers = RelationalConsumerRegistry()
        self.circuits = RelationalCircuitStore()
        self.participations = RelationalParticipationStore()
        self.sagas = RelationalSagaStore()
        self.saga_archive = RelationalSagaArchive()
        self.saga_locks = RelationalSagaLockStore()
        self.inspection = RelationalInspection()
        self.flows = relational_flows()
        self._lent_sync_engine = sync_engine if isinstance(sync_engine, Engine) else None
        self._make_sync_engine = None if isinstance(sync_engine, Engine) else sync_engine
        self._sync_engine: Engine | None = self._lent_sync_engine
        self._making = Lock()
        self._owns_engine = owns_engine
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._turn = asyncio.Lock() if traits.single_writer else None

    @property
    def name(self) -> str:
        """Which kind of database this is, such as ``PostgreSQL``."""
        return self.traits.name

    @property
    def owns_engine(self) -> bool:
        """Whether the engine was made here, from its URL alone."""
        return self._owns_engine

    @property
    def sync_engine(self) -> Engine:
        """The engine for handlers that run in a thread, made when it is first asked for."""
        with self._making:  # lanes ask from threads of their own; an engine that is made twice is never closed
            if self._sync_engine is None and self._make_sync_engine is not None:
                self._sync_engine = self._make_sync_engine()
        assert self._sync_engine is not None, "a store has a synchronous engine, or can make one"
        return self._sync_engine

    def wait_within(self, limit: timedelta) -> None:
        """Give up a connection whose database has not answered within ``limit``: not a program, nor a commit."""
        self._patience = replace(self._patience, within=limit)
        idle_limit = self.traits.idle_limit
        self._brief_limits = self._limits if idle_limit is None else idle_limit(limit)

    @property
    def answer_within(self) -> timedelta:
        """What ``wait_within`` was told."""
        return self._patience.within

    async def end_resting(self) -> int:
        """End connections of processes that stand still where the database does not notice; return how many."""
        if self.traits.end_resting is None:
            return 0
        rested_s = 2 * self._patience.within.total_seconds()
        return len(await self.run_single(rows_of(Execute(self.traits.end_resting, {"rested_s": rested_s}))))

    def begin(self, *, shared: bool = False) -> AbstractAsyncContextManager[OwnTransaction]:
        """Begin a transaction; a cancellation inside it discards the connection, whose state is then unknown."""
        begun = self._begin(self._patience, self._limits)
        return self._shared(begun) if shared else begun

    def _shared(
        self, begun: AbstractAsyncContextManager[OwnTransaction]
    ) -> AbstractAsyncContextManager[OwnTransaction]:
        """Return what several work in: where an error ends the whole transaction, nobody can go on in it."""
        return begun

    def begin_briefly(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction in which nobody else's code runs."""
        return self._begin(self._patience, self._brief_limits)

    @asynccontextmanager
    async def _begin(self, patience: Patience, limits: Executable | None) -> AsyncGenerator[OwnTransaction]:
        async with self._my_turn(), self._connected(self.engine) as connection:
            try:
                async with patience.for_answer(connection):
                    await connection.begin()
                    if limits is not None:
                        await connection.execute(limits)
                yield self.transaction_type(connection, patience)
                async with patience.for_answer(connection):
                    await connection.commit()
            except asyncio.CancelledError:
                await connection.invalidate()
                raise
            except Exception:
                await connection.rollback()  # closing alone would lend it on as it is, were it the commit that failed
                raise

    def begin_sync(self, *, shared: bool = False) -> AbstractContextManager[OwnSyncTransaction]:
        """Begin a transaction in this thread."""
        begun = self._begin_sync()
        return self._shared_sync(begun) if shared else begun

    def _shared_sync(
        self, begun: AbstractContextManager[OwnSyncTransaction]
    ) -> AbstractContextManager[OwnSyncTransaction]:
        return begun

    @contextmanager
    def _begin_sync(self) -> Generator[OwnSyncTransaction]:
        with self._connected_sync() as connection:
            try:
                connection.begin()
                if self.traits.lock_wait is not None:
                    connection.execute(self.traits.lock_wait)
                yield self.sync_transaction_type(connection)
                connection.commit()
            except BaseException:
                connection.rollback()  # closing alone would lend it on as it is, were it the commit that failed
                raise

    async def run(self, program: Program[T]) -> T:
        """Run ``program`` in a short transaction of its own."""
        return await self._run(program, self.begin_briefly)

    async def _run_patiently(self, program: Program[T]) -> T:
        """Run ``program`` in a transaction of its own, however long it takes."""
        patience = replace(self._patience, sever=None)
        return await self._run(program, partial(self._begin, patience, self._limits))

    async def _run(self, program: Program[T], begin: Callable[[], AbstractAsyncContextManager[Transaction]]) -> T:
        try:
            if self.traits.single_writer:
                async with self._my_turn():
                    return await in_thread(partial(self._run_in_thread, program))
            async with begin() as transaction:
                return await transaction.run(program)
        except (StatementError, UnicodeEncodeError) as error:
            self._raise(error)

    async def run_single(self, program: Program[T]) -> T:
        """Run a program of one statement, which commits by itself."""
        if self.traits.single_writer:
            return await self.run(single(program))
        try:
            async with self._connected(self._autocommit) as connection, self._patience.for_answer(connection):
                return await connection.run_sync(_run_unbegun, program)
        except (StatementError, UnicodeEncodeError) as error:
            self._raise(error)

    def _run_in_thread(self, program: Program[T]) -> T:
        """Run ``program`` as a whole in a thread: an embedded database answers sooner than a thread can be woken."""
        with self.begin_sync() as transaction:
            return transaction.run(program)

    def translate(self, error: Exception) -> Exception:
        """Return the library's error for a driver's, where it means conflict or an absent server."""
        if not isinstance(error, DBAPIError):
            return error
        if self.traits.conflicts(error.orig or error):
            return ConflictError(f"{self.name} asks for the transaction again: {text_of(error.orig or error)}")
        if error.connection_invalidated or isinstance(error.orig, (ConnectionError, OSError)):
            return self._unreachable(error)
        return error

    async def migrate(self) -> tuple[Migration, ...]:
        """Bring the tables to this release's schema; return the steps applied. Safe to run many times at once."""
        return await self._run_patiently(migrate(self.engine.dialect.name, self.traits.migration_lock))

    def migration_sql(self) -> str:
        """Return the schema as an SQL script."""
        return as_sql(self.engine.dialect)

    async def check_schema(self) -> None:
        """Make sure that the tables are there.

        Raises:
            SchemaVersionError: run ``pillarbox migrate`` first.
        """
        await self.run(check_version())

    async def close(self) -> None:
        """Close the engines that the store made; it cannot be used afterwards where it lives in memory."""
        await self.let_go()

    async def let_go(self) -> None:
        """Close the connections of the engines that the store made; they are opened again when they are needed."""
        if self._owns_engine:
            await self.engine.dispose()
        if self._sync_engine is not None and self._sync_engine is not self._lent_sync_engine:
            self._sync_engine.dispose()

    @asynccontextmanager
    async def _connected(self, engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
        async with AsyncExitStack() as stack:
            async with self._connecting():
                connection = await stack.enter_async_context(engine.connect())
            yield connection

    @asynccontextmanager
    async def _connecting(self) -> AsyncGenerator[None]:
        """Tell of a database that is not there, or does not answer.

        Raises:
            StoreUnavailableError: no connection is to be had.
        """
        try:
            async with self._patience.for_connection():
                yield
        except StoreUnavailableError:
            raise
        except (DBAPIError, OSError, PoolTimeoutError) as error:
            raise self._unreachable(error) from error

    @contextmanager
    def _connected_sync(self) -> Generator[Connection]:
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(self.sync_engine.connect())
            except (DBAPIError, OSError, PoolTimeoutError) as error:
                raise self._unreachable(error) from error
            yield connection

    def _unreachable(self, error: Exception) -> StoreUnavailableError:
        reason = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        remedy = IN_A_FILE if self.traits.single_writer else DOES_IT_KNOW_US
        return StoreUnavailableError(store=self.name, reason=text_of(reason), remedy=remedy)

    def _raise(self, error: StatementError | UnicodeEncodeError) -> NoReturn:
        refuse_no_text(error)
        if says_that_tables_are_absent(error):
            raise absent_tables() from error
        translated = self.translate(error)
        if translated is error:
            raise error
        raise translated from error

    @asynccontextmanager
    async def _my_turn(self) -> AsyncGenerator[None]:
        """Queue up where there is one writer, instead of letting the database's own polling choose the next."""
        if self._turn is None:
            yield
            return
        try:
            async with asyncio.timeout(TURN_WITHIN_S):
                await self._turn.acquire()
        except TimeoutError:
            raise ConflictError(
                f"another transaction of this process has kept {self.name} for {TURN_WITHIN_S} s; "
                "do not wait inside a transaction for something that needs a transaction of its own"
            ) from None
        try:
            yield
        finally:
            self._turn.release()


def _run_unbegun(connection: Connection, program: Program[T]) -> T:
    """Run a program of one statement where each statement commits by itself."""
    return drive_sync(single(program), partial(execute_on, connection))


def rows_of(wanted: Execute) -> Program[Rows]:
    """Return a program of one statement."""
    return (yield wanted)


def single(program: Program[T]) -> Program[T]:
    """Return ``program``, made to fail before a second statement."""
    stepped = step(program)
    if isinstance(stepped, Execute):
        stepped = step(program, (yield stepped))
    if isinstance(stepped, Execute):
        raise RuntimeError("a program of a single statement wanted a second one")
    return stepped.result
