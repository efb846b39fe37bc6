"""How the log of a PostgreSQL database is reached; the driver for it is imported when somebody reads."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.engine import URL

from pillarbox.errors import MissingExtraError
from pillarbox.outbox import OutboxStore
from pillarbox.relational.key_numbers import RelationalKeyNumbers
from pillarbox.relational.outbox import KeyLocks
from pillarbox.relay import RelaySettings
from pillarbox.relay.log_reader import LogAccess, LogCheckpoints, LogReader
from pillarbox.stores.postgresql.checkpoints import PostgresLogCheckpoints
from pillarbox.stores.postgresql.tableless import TablelessOutboxStore
from pillarbox.transaction import TransactionSource

if TYPE_CHECKING:
    from pillarbox.clock import Clock


class PostgresLogAccess(LogAccess):
    """The log of the database at one URL."""

    def __init__(self, url: URL, key_locks: KeyLocks) -> None:
        """Reach the database at ``url`` by psycopg, whatever driver the store itself uses."""
        self._url = url
        self._checkpoints = PostgresLogCheckpoints()
        self._tableless = TablelessOutboxStore(key_locks, RelationalKeyNumbers())

    @property
    def checkpoints(self) -> LogCheckpoints:
        return self._checkpoints

    @property
    def tableless(self) -> OutboxStore:
        return self._tableless

    def reader(
        self,
        *,
        source: TransactionSource,
        clock: Clock,
        settings: RelaySettings,
        is_wanted: Callable[[], bool],
        on_arrival: Callable[[], None],
    ) -> LogReader:
        if find_spec("psycopg") is None:
            raise MissingExtraError(module="psycopg", extra="postgres", needed_for="a relay of the kind 'log'")
        from pillarbox.stores.postgresql.log_reader import PostgresLogReader, ReadingTerms
        from pillarbox.stores.postgresql.log_stream import StreamLimits

        limits = StreamLimits(records=2 * settings.batch, status_every_s=settings.lease.total_seconds() / 4)
        dialect: Any = PGDialect_psycopg  # SQLAlchemy left it untyped
        _, arguments = dialect().create_connect_args(self._url)
        return PostgresLogReader(
            arguments=arguments,
            source=source,
            clock=clock,
            settings=settings.log,
            terms=ReadingTerms(limits=limits, silence=settings.lease),
            is_wanted=is_wanted,
            on_arrival=on_arrival,
        )
