"""A private PostgreSQL with logical decoding and real durability (fsync on)."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.servers.errors import ServerError, ServerMissingError, ServerStartError
from tests.servers.folders import private_folder, remove_folder
from tests.servers.ports import free_port
from tests.servers.processes import name_of
from tests.servers.server import Server
from tests.servers.unprivileged import RunAs, unprivileged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from psycopg import Connection

USER = "pillarbox"
SETTINGS: Mapping[str, str] = {
    "wal_level": "logical",
    "max_replication_slots": "50",
    "max_wal_senders": "50",
    "max_prepared_transactions": "10",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "unix_socket_directories": "",
    "dynamic_shared_memory_type": "mmap",  # in the data folder: a killed server leaves nothing in /dev/shm
}
_INITDB = ("--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions")
_BINARIES = "PILLARBOX_POSTGRESQL_BIN"
_STATEMENT_TIMEOUT_S = 60


class PostgresServer(Server):
    """PostgreSQL; ``settings`` are added to those of its configuration file, ``programs`` may be another release's."""

    name = "postgresql"
    packages = ("postgresql",)
    stop_signal = signal.SIGINT  # a "fast" shutdown: sessions are ended, a checkpoint is written
    close_signal = signal.SIGQUIT  # an "immediate" one

    def __init__(
        self,
        *,
        settings: Mapping[str, str] | None = None,
        choose_port: Callable[[], int] = free_port,
        programs: Path | None = None,
    ) -> None:
        super().__init__(choose_port=choose_port)
        self._programs = programs
        self._settings = {**SETTINGS, **(settings or {})}
        self._numbers = itertools.count(1)
        self._kept: Connection[Any] | None = None

    @classmethod
    def is_installed(cls) -> bool:
        """Whether initdb, postgres and psql are on this machine."""
        return _binaries() is not None

    @property
    def url(self) -> str:
        """The maintenance database, as a superuser without a password."""
        return self._url("postgres")

    @property
    def data(self) -> Path:
        """The cluster's data folder."""
        return self.folder / "data"

    def prepare(self) -> None:
        """Copy an empty cluster, which is quicker than initdb, and add the settings."""
        shutil.copytree(_empty_cluster(self.run_as(), self._program("initdb")), self.data)
        with (self.data / "postgresql.conf").open("a") as configuration:
            configuration.writelines(f"{name} = '{value}'\n" for name, value in self._settings.items())
        self.run_as().give(self.data)

    def command(self) -> Sequence[str]:
        """The postmaster itself, not pg_ctl, so that it is our child and its end is seen at once."""
        listen = ["-c", "listen_addresses=127.0.0.1", "-p", str(self.port)]
        return [self._program("postgres"), "-D", str(self.data), *listen]

    def environment(self) -> Mapping[str, str]:
        """Ours, without the settings of some other PostgreSQL."""
        return environment_without_settings(self.folder)

    def is_ready(self) -> bool:
        """Whether the postmaster has written "ready" into its lock file, as pg_ctl asks it."""
        lines = self._lock_file()
        return len(lines) > 7 and lines[0] == str(self.process.pid) and lines[7] == "ready"

    def port_was_taken(self, log: str) -> bool:
        """Whether the postmaster could not bind."""
        return "could not bind" in log or "could not create any TCP/IP sockets" in log

    def may_pass(self, log: str) -> bool:
        """Whether a predecessor is not quite gone, or the machine was short of processes."""
        signs = ("postmaster.pid", "still in use", "could not fork", "shared memory segment")
        return any(sign in log for sign in signs)

    def run_as(self) -> RunAs:
        """Not as root, which PostgreSQL refuses."""
        return unprivileged()

    def before_start(self) -> None:
        """Forget a lock file whose pid now belongs to some other program; PostgreSQL would refuse for ever."""
        lines = self._lock_file()
        if lines and lines[0].isdigit() and name_of(int(lines[0])) not in {None, "postgres"}:
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    def close(self) -> None:
        """End it, with the connection that is kept, and remove its folder."""
        if self._kept is not None:
            self._kept.close()
        super().close()

    def execute(self, statement: str, *, database: str = "postgres") -> list[list[str]]:
        """Run SQL on a connection of its own, each statement committed by itself; return the rows as text.

        Raises:
            ServerError: the server refused it or did not answer in time; carries what it said.
        """
        psql = [self._program("psql"), "-X", "-q", "-A", "-t", "-F", "\x1f", "-R", "\x1e", "-v", "ON_ERROR_STOP=1"]
        try:
            done = subprocess.run(
                [*psql, "-d", self._url(database), "-f", "-"],
                input=statement,
                env={**self.environment(), "PGCONNECT_TIMEOUT": "10", "PGCLIENTENCODING": "UTF8"},
                capture_output=True,
                text=True,
                encoding="utf-8",
                check=False,
                timeout=_STATEMENT_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            raise ServerError(f"no answer within {_STATEMENT_TIMEOUT_S} s to: {statement}") from None
        if done.returncode != 0:
            raise ServerError(f"{done.stderr.strip()}\nin: {statement}")
        rows = done.stdout.removesuffix("\n").split("\x1e") if done.stdout else []
        return [row.split("\x1f") for row in rows]

    def create_database(self, *, template: str = "template0") -> str:
        """Create a fresh database and return its URL; ``template`` names the database to copy, or is its URL."""
        name = f"test_{next(self._numbers)}"
        self._administer(f'CREATE DATABASE "{name}" TEMPLATE "{_database_name(template)}"')
        return self._url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database with the replication slots in it, ending whoever is connected."""
        name = _database_name(url)
        of_it = f"FROM pg_replication_slots WHERE database = '{name}'"
        self._administer(
            f"SELECT pg_terminate_backend(active_pid, 5000) {of_it} AND active_pid IS NOT NULL",
            f"SELECT pg_drop_replication_slot(slot_name) {of_it}",
            f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)',
        )

    def _administer(self, *statements: str) -> None:
        """Run SQL on a connection that is kept, since each test does: to start psql costs several times as much.

        Raises:
            ServerError: the server refused it or did not answer in time; carries what it said.
        """
        import psycopg

        said = ""
        try:
            with contextlib.suppress(psycopg.OperationalError):  # it was restarted since
                if self._kept is not None:
                    self._kept.execute("SELECT 1")
            if self._kept is None or self._kept.closed:
                limit = f"-c statement_timeout={_STATEMENT_TIMEOUT_S}s"
                self._kept = psycopg.connect(self.url, autocommit=True, connect_timeout=10, options=limit)
            for said in statements:
                self._kept.execute(said.encode())
        except psycopg.Error as error:
            raise ServerError(f"{error}\nin: {said or 'connecting'}") from error

    def _program(self, name: str) -> str:
        folder = self._programs or _binaries()
        if folder is None:
            raise ServerMissingError("PostgreSQL's programs are not on this machine")
        return str(folder / name)

    def _url(self, database: str) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def _lock_file(self) -> list[str]:
        """The lines of postmaster.pid: pid first, state eighth; empty when it is not there."""
        try:
            return [line.strip() for line in (self.data / "postmaster.pid").read_text().splitlines()]
        except (OSError, UnicodeDecodeError):
            return []


def _database_name(name_or_url: str) -> str:
    return urlsplit(name_or_url).path.removeprefix("/") if "://" in name_or_url else name_or_url


@functools.cache
def _empty_cluster(run_as: RunAs, initdb: str) -> Path:
    """Run ``initdb`` once for all servers of this process, and return the data folder that it made.

    Raises:
        ServerStartError: initdb failed; carries what it said.
    """
    folder = private_folder("postgresql-empty")
    atexit.register(remove_folder, folder)
    data = folder / "data"
    data.mkdir(mode=0o700)
    run_as.give(data)
    done = subprocess.run(
        [*run_as.prefix, initdb, "--pgdata", str(data), "--username", USER, "--auth=trust", *_INITDB],
        cwd=folder,
        env=environment_without_settings(folder),
        capture_output=True,
        text=True,
        check=False,
        user=run_as.user,
        group=run_as.user,
        extra_groups=None if run_as.user is None else [],
    )
    if done.returncode != 0:
        raise ServerStartError(f"initdb failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return data


def environment_without_settings(home: Path) -> dict[str, str]:
    """Our environment, without what would tell a client of some other PostgreSQL."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**own, "HOME": str(home), "LC_ALL": "C", "TZ": "UTC"}


def _binaries() -> Path | None:
    """The folder of the newest PostgreSQL here, or the one that the environment names."""
    candidates = [Path(named)] if (named := os.environ.get(_BINARIES)) else [*_debian_folders(), *_folders_on_path()]
    return next((one for one in candidates if all((one / it).exists() for it in ("initdb", "postgres", "psql"))), None)


def _debian_folders() -> list[Path]:
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    return sorted(versions, key=lambda path: int(path.parent.name), reverse=True)


def _folders_on_path() -> list[Path]:
    found = shutil.which("postgres")
    return [Path(found).resolve().parent] if found else []
