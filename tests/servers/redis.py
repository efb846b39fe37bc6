"""A private Redis that keeps what it confirms: an append-only file, written at each command."""

from __future__ import annotations

import shutil
import socket
from typing import TYPE_CHECKING

from tests.servers.ports import free_port
from tests.servers.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PROGRAM = "redis-server"
SETTINGS: Mapping[str, str] = {
    "appendonly": "yes",
    "appendfsync": "always",
    "save": "",
    "maxmemory-policy": "noeviction",
    "loglevel": "notice",
}
_TRY_WITHIN_S = 1.0


class RedisServer(Server):
    """Redis; ``settings`` are added to those of its command line."""

    name = "redis"
    packages = ("redis-server",)

    def __init__(
        self, *, settings: Mapping[str, str] | None = None, choose_port: Callable[[], int] = free_port
    ) -> None:
        super().__init__(choose_port=choose_port)
        self._settings = {**SETTINGS, **(settings or {})}

    @classmethod
    def is_installed(cls) -> bool:
        """Whether redis-server is on this machine."""
        return shutil.which(PROGRAM) is not None

    @property
    def url(self) -> str:
        """The server's first database."""
        return f"redis://127.0.0.1:{self.port}/0"

    def prepare(self) -> None:
        """Nothing: an empty folder is an empty server."""

    def command(self) -> Sequence[str]:
        """The server in the foreground."""
        own = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder)}
        return [PROGRAM, *(word for name, value in {**own, **self._settings}.items() for word in (f"--{name}", value))]

    def environment(self) -> Mapping[str, str]:
        """What it needs to find its program."""
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin", "HOME": str(self.folder), "LC_ALL": "C"}

    def is_ready(self) -> bool:
        """Whether it answers, its data loaded."""
        return self.ask("PING") == "+PONG"

    def ask(self, *words: str) -> str:
        """Send one command by a connection of its own; return the first line of the answer, empty when none came."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=_TRY_WITHIN_S) as connection:
                parts = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
                connection.sendall(f"*{len(words)}\r\n{parts}".encode())
                with connection.makefile("rb") as answer:
                    return answer.readline().decode(errors="replace").strip()
        except OSError:
            return ""

    def port_was_taken(self, log: str) -> bool:
        """Whether the server could not bind."""
        return "Address already in use" in log

    def may_pass(self, log: str) -> bool:
        """Nothing that stops it from starting passes by itself."""
        return False
