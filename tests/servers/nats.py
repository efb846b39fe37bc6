"""A private NATS with JetStream."""

from __future__ import annotations

import shutil
import socket
from typing import TYPE_CHECKING

from tests.servers.ports import free_port
from tests.servers.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PROGRAM = "nats-server"
_TRY_WITHIN_S = 1.0


class NatsServer(Server):
    """NATS; ``options`` are added to its command line."""

    name = "nats"
    packages = ("nats-server",)

    def __init__(self, *, options: Sequence[str] = (), choose_port: Callable[[], int] = free_port) -> None:
        super().__init__(choose_port=choose_port)
        self._options = list(options)

    @classmethod
    def is_installed(cls) -> bool:
        """Whether nats-server is on this machine."""
        return shutil.which(PROGRAM) is not None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        """Nothing: an empty folder is an empty server."""

    def command(self) -> Sequence[str]:
        """The server in the foreground."""
        own = ["-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.folder / "store")]
        return [PROGRAM, *own, *self._options]

    def environment(self) -> Mapping[str, str]:
        """What it needs to find its program."""
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin", "HOME": str(self.folder), "LC_ALL": "C"}

    def is_ready(self) -> bool:
        """Whether it greets and its streams are loaded."""
        if "Server is ready" not in self.log.read_text(errors="replace"):
            return False
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=_TRY_WITHIN_S) as connection:
                return connection.recv(5) == b"INFO "
        except OSError:
            return False

    def port_was_taken(self, log: str) -> bool:
        """Whether the server could not bind."""
        return "address already in use" in log

    def may_pass(self, log: str) -> bool:
        """Nothing that stops it from starting passes by itself."""
        return False
