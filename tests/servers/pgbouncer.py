"""A PgBouncer in transaction mode before a PostgreSQL of ours."""

from __future__ import annotations

import shutil
import socket
from typing import TYPE_CHECKING

from tests.servers.ports import free_port
from tests.servers.postgresql import USER, PostgresServer, environment_without_settings
from tests.servers.server import Server
from tests.servers.unprivileged import RunAs, unprivileged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PROGRAM = "/usr/sbin/pgbouncer"
_TRY_WITHIN_S = 1.0


class PgBouncerServer(Server):
    """PgBouncer; it stands before ``upstream``, which must run, so it is not among those that start alone."""

    name = "pgbouncer"
    packages = ("pgbouncer",)

    def __init__(self, upstream: PostgresServer, *, choose_port: Callable[[], int] = free_port) -> None:
        super().__init__(choose_port=choose_port)
        self._upstream = upstream

    @classmethod
    def is_installed(cls) -> bool:
        """Whether pgbouncer is on this machine."""
        return _program() is not None

    @property
    def url(self) -> str:
        """Its administration database."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/pgbouncer"

    def url_of(self, url: str) -> str:
        """The way to a database of the upstream server through the pooler."""
        return self.url.removesuffix("pgbouncer") + url.rpartition("/")[2]

    def prepare(self) -> None:
        """Nothing: the configuration names the port and is written before each start."""

    def before_start(self) -> None:
        """Write the configuration."""
        (self.folder / "users.txt").write_text(f'"{USER}" ""\n')
        (self.folder / "pgbouncer.ini").write_text(
            f"""
            [databases]
            * = host=127.0.0.1 port={self._upstream.port}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {self.port}
            unix_socket_dir =
            auth_type = trust
            auth_file = {self.folder / "users.txt"}
            pool_mode = transaction
            max_client_conn = 100
            default_pool_size = 10
            """.replace("\n            ", "\n")
        )
        for file in self.folder.iterdir():
            self.run_as().give(file)

    def command(self) -> Sequence[str]:
        """In the foreground."""
        return [_program() or PROGRAM, str(self.folder / "pgbouncer.ini")]

    def environment(self) -> Mapping[str, str]:
        """Ours, without the settings of some other PostgreSQL."""
        return environment_without_settings(self.folder)

    def is_ready(self) -> bool:
        """Whether it takes connections."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=_TRY_WITHIN_S):
                return True
        except OSError:
            return False

    def port_was_taken(self, log: str) -> bool:
        """Whether it could not bind."""
        return "Address already in use" in log

    def may_pass(self, log: str) -> bool:
        """No cause is known that passes by itself."""
        del log
        return False

    def run_as(self) -> RunAs:
        """Not as root, which PgBouncer refuses."""
        return unprivileged()


def _program() -> str | None:
    return shutil.which("pgbouncer") or shutil.which(PROGRAM)
