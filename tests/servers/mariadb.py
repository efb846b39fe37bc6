"""A private MariaDB with a row-based binary log and real durability (a flush for each commit)."""

from __future__ import annotations

import atexit
import functools
import getpass
import itertools
import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.servers.errors import ServerError, ServerMissingError, ServerStartError
from tests.servers.folders import private_folder, remove_folder
from tests.servers.ports import free_port
from tests.servers.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

USER = "root"
SETTINGS: Mapping[str, str] = {
    "innodb_flush_log_at_trx_commit": "1",
    "sync_binlog": "1",
    "log_bin": "binlog",
    "binlog_format": "ROW",
    "server_id": "1",
    "max_connections": "300",
    "innodb_buffer_pool_size": "256M",
    "character_set_server": "utf8mb4",
    "loose_innodb_snapshot_isolation": "ON",
}
_STATEMENT_TIMEOUT_S = 60
_PROGRAMS = ("mariadbd", "mariadb-install-db", "mariadb")
_PLACES = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin", "/usr/local/bin"))


class MariaDbServer(Server):
    """MariaDB; ``settings`` are added to those of its command line."""

    name = "mariadb"
    packages = ("mariadb-server", "mariadb-client")

    def __init__(
        self, *, settings: Mapping[str, str] | None = None, choose_port: Callable[[], int] = free_port
    ) -> None:
        super().__init__(choose_port=choose_port)
        self._settings = {**SETTINGS, **(settings or {})}
        self._numbers = itertools.count(1)

    @classmethod
    def is_installed(cls) -> bool:
        """Whether the server, its installer and its client are on this machine."""
        return all(_found(program) for program in _PROGRAMS)

    @property
    def url(self) -> str:
        """The server without a database, as its root without a password."""
        return self._url("")

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    def prepare(self) -> None:
        """Copy an empty data folder, which is quicker than making one."""
        shutil.copytree(_empty_data(), self.data)

    def command(self) -> Sequence[str]:
        """The server itself, in the foreground."""
        return [
            _program("mariadbd"),
            "--no-defaults",
            f"--user={_user()}",
            f"--datadir={self.data}",
            f"--socket={self.folder / 's.sock'}",
            f"--pid-file={self.folder / 'mariadb.pid'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            *(f"--{name.replace('_', '-')}={value}" for name, value in self._settings.items()),
        ]

    def environment(self) -> Mapping[str, str]:
        """Ours, without the settings of some other server."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("MYSQL")}
        return {**own, "HOME": str(self.folder), "LC_ALL": "C", "TZ": "UTC"}

    def is_ready(self) -> bool:
        """Whether this process greets clients: it writes its pid when it has bound its port."""
        try:
            if (self.folder / "mariadb.pid").read_text().strip() != str(self.process.pid):
                return False
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                return len(connection.recv(5)) == 5
        except OSError:
            return False

    def port_was_taken(self, log: str) -> bool:
        """Whether the server could not bind."""
        return "Can't start server: Bind on TCP/IP port" in log or "Address already in use" in log

    def may_pass(self, log: str) -> bool:
        """Whether a predecessor still has the files."""
        return "Unable to lock" in log or "is in use by another" in log

    def before_start(self) -> None:
        """Forget the pid of a server that was killed."""
        (self.folder / "mariadb.pid").unlink(missing_ok=True)

    def execute(self, statement: str, *, database: str = "") -> list[list[str]]:
        """Run SQL on a connection of its own, each statement committed by itself; return the rows as text.

        Raises:
            ServerError: the server refused it or did not answer in time; carries what it said.
        """
        client = [_program("mariadb"), "--no-defaults", "--batch", "--skip-column-names", "--host=127.0.0.1"]
        try:
            done = subprocess.run(
                [*client, f"--port={self.port}", f"--user={USER}", "--default-character-set=utf8mb4", database],
                input=statement,
                env=self.environment(),
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
        return [line.split("\t") for line in done.stdout.splitlines()]

    def create_database(self) -> str:
        """Create a fresh database and return its URL."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE `{name}`")
        return self._url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database, ending whoever is connected to it: an open transaction there would keep it waiting."""
        name = urlsplit(url).path.removeprefix("/")
        for (number,) in self.execute(f"SELECT id FROM information_schema.processlist WHERE db = '{name}'"):
            try:
                self.execute(f"KILL {number}")
            except ServerError:
                continue  # it is gone already
        self.execute(f"DROP DATABASE IF EXISTS `{name}`")

    def _url(self, database: str) -> str:
        return f"mysql://{USER}@127.0.0.1:{self.port}/{database}"


@functools.cache
def _empty_data() -> Path:
    """Make an empty data folder once for all servers of this process.

    Raises:
        ServerStartError: the installer failed; carries what it said.
    """
    folder = private_folder("mariadb-empty")
    atexit.register(remove_folder, folder)
    data = folder / "data"
    done = subprocess.run(
        [
            _program("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={data}",
            f"--user={_user()}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder)},  # its temporary tables are named by process ids alone
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ServerStartError(f"mariadb-install-db failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return data


def _user() -> str:
    """As whom the server runs: as we are, since unlike PostgreSQL it takes root when told so."""
    return getpass.getuser()


def _program(name: str) -> str:
    found = _found(name)
    if found is None:
        raise ServerMissingError(f"{name} is not on this machine")
    return found


def _found(name: str) -> str | None:
    return shutil.which(name, path=_PLACES)
