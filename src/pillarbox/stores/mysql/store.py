"""What MariaDB and MySQL need besides the shared statements: drivers, sessions, versions, their errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeVar

from sqlalchemy import Engine, Executable, NullPool, create_engine, event, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from pillarbox.errors import ConfigurationError, ConflictError, MissingExtraError
from pillarbox.relational import DatabaseTraits, RelationalStore
from pillarbox.relational import mysql_words as mysql_words  # noqa: PLC0414  # spells the statements
from pillarbox.relational.key_numbers import RereadKeyNumbers
from pillarbox.relational.migrations import Migration, as_sql, migrate
from pillarbox.relational.returning import spelled_out
from pillarbox.relational.store import OwnSyncTransaction, OwnTransaction, single
from pillarbox.relay import RelayKind
from pillarbox.stores.mysql.idempotency import MySqlAttemptStore, MySqlClaimStore, MySqlInboxStore
from pillarbox.stores.mysql.locks import CREATE, EVERY_BUCKET, FILL, LOCKS
from pillarbox.stores.mysql.replay_batches import MySqlReplayBatches
from pillarbox.stores.mysql.sagas import MySqlSagaStore
from pillarbox.transaction import Execute, Program

T = TypeVar("T")

DRIVERS = ("asyncmy", "aiomysql")
SYNC_DRIVER = "pymysql"
LOCK_WAIT_S = 10
MODES = "STRICT_ALL_TABLES,STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
SESSION = f"SET SESSION sql_mode = '{MODES}', time_zone = '+00:00', innodb_lock_wait_timeout = {LOCK_WAIT_S}"
CHANGED_IS_NO_ERROR = "SET SESSION innodb_snapshot_isolation = OFF"
"""From MariaDB 11.6.2 on whoever has waited for a row gets error 1020 by default, even at READ COMMITTED."""
LOCK_WAIT = text(f"SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_S}")
OLDEST_MARIADB, OLDEST_MYSQL = (10, 6), (8, 0, 1)
LOCK_WAIT_TIMEOUT, DEADLOCK, CHANGED_SINCE_READ = 1205, 1213, 1020
UNKNOWN_VARIABLE = 1193
SERVER_SHUTDOWN, KILLED, READ_ONLY = 1053, 1317, 1290
NO_SAVEPOINT = 1305
BEGINNING = text("SAVEPOINT pillarbox_beginning")
IS_WHOLE = text("RELEASE SAVEPOINT pillarbox_beginning")
IS_IT = text("SELECT 1 FROM information_schema.processlist WHERE id = :thread AND host LIKE :origin")
KILL = text("KILL :thread")
ORIGIN = "origin"
KILL_WITHIN_S = 2
"""A server that does not answer is not waited for: it ends the statement when it is through."""

_migration = "CONCAT('pillarbox ', LEFT(SHA2(DATABASE(), 256), 32))"
MIGRATION_WITHIN_S = 300
MIGRATION_LOCK = text(f"SELECT GET_LOCK({_migration}, {MIGRATION_WITHIN_S})")
MIGRATION_UNLOCK = text(f"SELECT RELEASE_LOCK({_migration})")
VERSION_AND_MODES = select(text("VERSION(), @@SESSION.sql_mode"))


def is_conflict(error: BaseException) -> bool:
    """Tell whether the server asks for the whole transaction again."""
    return error_number(error) in (LOCK_WAIT_TIMEOUT, DEADLOCK, CHANGED_SINCE_READ)


def error_number(error: BaseException) -> int | None:
    """Return the server's number of an error of any of the drivers."""
    return error.args[0] if error.args and isinstance(error.args[0], int) else None


def sever(connection: Any) -> None:
    """End a connection of asyncmy or aiomysql: both close their transport, and say nothing to the server."""
    connection.close()


TRAITS = DatabaseTraits(
    name="MariaDB",
    key_locks=LOCKS,
    conflicts=is_conflict,
    sever=sever,
    refuses={
        RelayKind.SEQUENCE: "its snapshots do not tell which transactions they see, so that a cursor would pass those "
        "that commit late, and lose them; choose 'polling'",
        RelayKind.LOG: "its binary log is not read; choose 'polling'",
    },
)
LENT_TRAITS = replace(TRAITS, lock_wait=LOCK_WAIT)


class MySqlTransaction(OwnTransaction):
    """A transaction begun here, without RETURNING."""

    async def run(self, program: Program[T]) -> T:
        return await super().run(spelled_out(program))


class MySqlSyncTransaction(OwnSyncTransaction):
    """A transaction begun here, for a thread, without RETURNING."""

    def run(self, program: Program[T]) -> T:
        return super().run(spelled_out(program))


class MySqlStore(RelationalStore):
    """The store of a box on MariaDB or MySQL."""

    transaction_type = MySqlTransaction
    sync_transaction_type = MySqlSyncTransaction
    numbers_type = RereadKeyNumbers

    def __init__(self, engine: AsyncEngine, **options: Any) -> None:
        """As any store, with what tells new rows from old ones by other means than RETURNING."""
        super().__init__(engine, **options)
        self.inbox = MySqlInboxStore()
        self.attempts = MySqlAttemptStore()
        self.claims = MySqlClaimStore()
        self.sagas = MySqlSagaStore()
        self.operators.batches = MySqlReplayBatches()

    @asynccontextmanager
    async def _shared(self, begun: AbstractAsyncContextManager[OwnTransaction]) -> AsyncGenerator[OwnTransaction]:
        """Commit only what still has its beginning.

        At a deadlock InnoDB rolls back all of it, and whoever swallows the error goes on: of a run, the effects of the
        messages before would be lost, and the inbox rows of all.
        """
        async with begun as transaction:
            await transaction.run(_one(BEGINNING))
            yield transaction
            try:
                await transaction.run(_one(IS_WHOLE))
            except DBAPIError as error:
                _refuse_half(error)
                raise

    @contextmanager
    def _shared_sync(self, begun: AbstractContextManager[OwnSyncTransaction]) -> Generator[OwnSyncTransaction]:
        with begun as transaction:
            transaction.run(_one(BEGINNING))
            yield transaction
            try:
                transaction.run(_one(IS_WHOLE))
            except DBAPIError as error:
                _refuse_half(error)
                raise

    async def run_single(self, program: Program[T]) -> T:
        """Run a program of one statement, which may be several here, in a transaction."""
        return await self.run(single(program))

    async def migrate(self) -> tuple[Migration, ...]:
        """Bring the tables to this release's schema; return the steps applied. Safe to run many times at once.

        Here each CREATE commits by itself: what a failed run has made stays, and the next run goes on from there.
        """
        await self._refuse_unfit()
        return await self._run_patiently(_migrate(self.engine.dialect.name))

    def migration_sql(self) -> str:
        """Return the schema as an SQL script."""
        dialect = self.engine.dialect
        buckets = ", ".join(f"({bucket})" for bucket in EVERY_BUCKET["buckets"])
        create = str(CREATE.compile(dialect=dialect)).strip()
        fill = f"INSERT INTO pillarbox_key_locks (bucket) VALUES {buckets} ON DUPLICATE KEY UPDATE bucket = bucket"
        return f"{create};\n{fill};\n{as_sql(dialect)}"

    async def check_schema(self) -> None:
        await self._refuse_unfit()
        await super().check_schema()

    async def _refuse_unfit(self) -> None:
        """Look at the server once before it is used.

        Raises:
            ConfigurationError: it is too old, or cuts values to length instead of refusing them.
        """
        version, modes = (await self.run(_ask()))[0]
        refuse_unfit(str(version), str(modes))


def _refuse_half(error: DBAPIError) -> None:
    """Raise where ``error`` says that the savepoint at the beginning of a transaction is gone."""
    if error.orig is not None and error_number(error.orig) == NO_SAVEPOINT:
        raise ConflictError("the database rolled the transaction back in its midst, as at a deadlock") from error


def refuse_unfit(version: str, modes: str) -> None:
    """Refuse a server that lacks what the statements need, or a session that is not strict.

    Raises:
        ConfigurationError: so it is.
    """
    is_mariadb = "mariadb" in version.lower()
    numbers = tuple(int(part) for part in version.partition("-")[0].split(".")[:3] if part.isdigit())
    oldest = OLDEST_MARIADB if is_mariadb else OLDEST_MYSQL
    if numbers < oldest:
        kind = "MariaDB" if is_mariadb else "MySQL"
        raise ConfigurationError(
            f"the store needs {kind} {'.'.join(map(str, oldest))} or newer for SKIP LOCKED and JSON_TABLE; "
            f"the server is {version}"
        )
    if not {"STRICT_ALL_TABLES", "STRICT_TRANS_TABLES", "TRADITIONAL"} & set(modes.upper().split(",")):
        raise ConfigurationError(
            "the engine's sessions are not strict: values that are too long would be cut, and their messages merged; "
            "add STRICT_TRANS_TABLES to sql_mode"
        )


def _one(statement: Executable) -> Program[None]:
    yield Execute(statement)


def _ask() -> Program[Any]:
    return (yield Execute(VERSION_AND_MODES))


def _migrate(dialect: str) -> Program[tuple[Migration, ...]]:
    """Migrate under a lock of the session, which outlives the commits that each CREATE brings."""
    if (yield Execute(MIGRATION_LOCK))[0][0] != 1:
        raise ConfigurationError(f"another migration has not ended within {MIGRATION_WITHIN_S} s")
    try:
        yield Execute(CREATE)
        yield Execute(FILL, EVERY_BUCKET)
        return (yield from migrate(dialect, None))
    finally:
        yield Execute(MIGRATION_UNLOCK)


def mysql_store(database: URL | AsyncEngine | Engine, *, pool_size: int = 10) -> MySqlStore:
    """Make the store; connects to nothing.

    Args:
        database: a URL (``mysql://``, ``mariadb://``, each also ``+asyncmy`` or ``+aiomysql``), or an engine of the
            caller's, which stays the caller's to close; the store's own transactions on it are READ COMMITTED. A
            synchronous engine lends its URL.
        pool_size: connections kept of each engine made here.

    Raises:
        MissingExtraError: a driver is not installed.
    """
    url = database if isinstance(database, URL) else database.url
    url = _with_driver(url, is_engines=not isinstance(database, URL))
    _require(SYNC_DRIVER)
    sync_url = url.set(drivername=f"{url.get_backend_name()}+{SYNC_DRIVER}")
    lent = isinstance(database, (AsyncEngine, Engine))
    if isinstance(database, AsyncEngine):
        engine = database.execution_options(isolation_level="READ COMMITTED")
    else:
        engine = create_async_engine(url, **_options(pool_size))
        _prepare(engine.sync_engine)
        _end_what_is_given_up(engine.sync_engine, aside=create_async_engine(url, poolclass=NullPool))
    return MySqlStore(
        engine,
        sync_engine=database.execution_options(isolation_level="READ COMMITTED")
        if isinstance(database, Engine)
        else lambda: _sync_engine(sync_url, pool_size),
        traits=LENT_TRAITS if lent else TRAITS,
        owns_engine=not isinstance(database, AsyncEngine),
    )


def _sync_engine(url: URL, pool_size: int) -> Engine:
    engine = create_engine(url, **_options(pool_size))
    _prepare(engine)
    return engine


def _options(pool_size: int) -> dict[str, Any]:
    return {"pool_size": pool_size, "max_overflow": pool_size, "isolation_level": "READ COMMITTED"}


def _prepare(engine: Engine) -> None:
    """Say on each new connection what the statements rely on, whatever the server's defaults are."""

    @event.listens_for(engine, "connect")
    def set_session(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute(SESSION)
        try:
            cursor.execute(CHANGED_IS_NO_ERROR)
        except Exception as error:  # of whichever driver
            if error_number(error) != UNKNOWN_VARIABLE:
                raise
        cursor.close()


def _end_what_is_given_up(engine: Engine, *, aside: AsyncEngine) -> None:
    """Have the server end the statement of a connection that is given up in its midst, and let go of its locks.

    It does not look whether its client is still there before it has an answer. That is said on a connection of
    ``aside``, since all of the pool may be taken; and only of a session that came from where ours did, as behind a
    proxy, or after a restart, another one may have its number.
    """

    @event.listens_for(engine, "connect")
    def note_origin(connection: Any, record: ConnectionPoolEntry) -> None:
        record.info[ORIGIN] = _origin_of(connection.driver_connection)

    @event.listens_for(engine, "invalidate")
    def kill(connection: Any, record: ConnectionPoolEntry, error: BaseException | None) -> None:
        origin = record.info.get(ORIGIN)  # none of one that was given up before it had done anything
        if origin is not None and not isinstance(error, Exception):  # which says that the connection is lost
            connection.run_async(partial(_kill, aside, origin))


async def _kill(aside: AsyncEngine, origin: str, driver: Any) -> None:
    thread = driver.thread_id()
    sever(driver)  # first: whoever is cancelled in what follows must not lend it on
    with suppress(SQLAlchemyError, OSError, TimeoutError):
        async with asyncio.timeout(KILL_WITHIN_S), aside.connect() as connection:
            if (await connection.execute(IS_IT, {"thread": thread, "origin": origin})).first():
                await connection.execute(KILL, {"thread": thread})


def _origin_of(driver: Any) -> str:
    """Return a pattern of where the server says that a connection of asyncmy or aiomysql comes from."""
    carrier = getattr(driver, "_transport", None) or driver._writer
    name = carrier.get_extra_info("sockname")
    return f"%:{name[1]}" if isinstance(name, tuple) else "localhost"


def _with_driver(url: URL, *, is_engines: bool) -> URL:
    """Return ``url`` with an asynchronous driver and the whole of Unicode."""
    named = url.get_driver_name() if "+" in url.drivername else None
    if named in DRIVERS:
        driver = named
    elif named is None or is_engines:
        driver = next((one for one in DRIVERS if find_spec(one) is not None), DRIVERS[0])
    else:
        raise ConfigurationError(f"the MariaDB store does not speak through {named!r}; name {' or '.join(DRIVERS)}")
    _require(driver)
    url = url.set(drivername=f"{url.get_backend_name()}+{driver}")
    return url if "charset" in url.query else url.update_query_dict({"charset": "utf8mb4"})


def _require(driver: str) -> None:
    if find_spec(driver) is None:
        raise MissingExtraError(module=driver, extra="mysql", needed_for="the MariaDB store")
