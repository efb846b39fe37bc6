"""A fresh database for every run."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import PostgresServer

SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",  # no checkpoint falls into one competitor's run and not into another's
    "autovacuum": "off",  # for the same reason
}


class Databases(ABC):
    """Where the databases of one kind come from."""

    server_pid: int | None = None
    version: str

    @contextmanager
    @abstractmethod
    def fresh(self) -> Iterator[str]:
        """Return the URL of a database that exists as long as the block."""
        yield ""

    @abstractmethod
    def close(self) -> None:
        """End the server, if there is one."""


class PostgresDatabases(Databases):
    """Databases of a private server, or of one that already runs and stays its starter's to end."""

    def __init__(self, server: PostgresServer | None = None) -> None:
        self._server = server or PostgresServer(settings=SETTINGS)
        self._owns_server = server is None
        self._server.start()
        self.server_pid = self._server.process.pid
        self.version = f"PostgreSQL {self._server.execute('SHOW server_version')[0][0].split()[0]}"

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """Create a database and drop it."""
        url = self._server.create_database()
        self._server.execute("CHECKPOINT")
        try:
            yield url
        finally:
            self._server.drop_database(url)

    def close(self) -> None:
        """End the server that was started here."""
        if self._owns_server:
            self._server.close()


class SqliteDatabases(Databases):
    """Files in a temporary folder."""

    def __init__(self) -> None:
        import sqlite3

        self.version = f"SQLite {sqlite3.sqlite_version}"

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """Name a file that does not exist yet, and remove it."""
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{Path(folder) / 'bench.db'}"

    def close(self) -> None:
        """Do nothing."""


KINDS: dict[str, type[Databases]] = {"postgresql": PostgresDatabases, "sqlite": SqliteDatabases}
