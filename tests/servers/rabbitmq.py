"""A private RabbitMQ with a private epmd: quorum queues of one node, everything on loopback."""

from __future__ import annotations

import json
import socket
import subprocess
from base64 import b64encode
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers.errors import ServerError
from tests.servers.ports import free_port
from tests.servers.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PROGRAMS = Path("/usr/lib/rabbitmq/bin")
EPMD = Path("/usr/bin/epmd")
SETTINGS: Mapping[str, str] = {
    "loopback_users.guest": "true",
    "vm_memory_high_watermark.absolute": "1GiB",
    "disk_free_limit.absolute": "50MB",
    "log.console": "true",
    "log.console.level": "info",
}
MANAGEMENT = "rabbitmq_management"
_ERLANG = "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none"
_GUEST = {"Authorization": f"Basic {b64encode(b'guest:guest').decode()}", "Content-Type": "application/json"}
_RUN = """
epmd=$1; server=$2
"$epmd" & mapper=$!
until "$epmd" -names >/dev/null 2>&1; do kill -0 $mapper || exit 1; done
"$server" & broker=$!
trap 'kill -TERM $broker' TERM
wait $broker; wait $broker
kill -TERM $mapper; wait $mapper
"""
"""The node finds the port mapper running and so leaves none of its own behind; both end together."""
_TRY_WITHIN_S = 1.0
_CONTROL_WITHIN_S = 60
_MANAGE_WITHIN_S = 10


class RabbitMqServer(Server):
    """RabbitMQ; ``settings`` are added to those of its configuration file, ``plugins`` are enabled.

    ``internals`` are variables of its Erlang application, for what its configuration file has no setting.
    """

    name = "rabbitmq"
    packages = ("rabbitmq-server",)

    def __init__(
        self,
        *,
        settings: Mapping[str, str] | None = None,
        internals: Mapping[str, int] | None = None,
        plugins: Sequence[str] = (),
        choose_port: Callable[[], int] = free_port,
    ) -> None:
        super().__init__(choose_port=choose_port)
        self.management_port = free_port()
        own = {"management.tcp.ip": "127.0.0.1", "management.tcp.port": str(self.management_port)}
        self._settings = {**SETTINGS, **(own if MANAGEMENT in plugins else {}), **(settings or {})}
        self._erlang = " ".join([_ERLANG, *(f"-rabbit {name} {value}" for name, value in (internals or {}).items())])
        self._plugins = plugins
        self._distribution_port = free_port()
        self._epmd_port = free_port()

    @classmethod
    def is_installed(cls) -> bool:
        """Whether RabbitMQ is on this machine, with the Erlang that it needs."""
        return (PROGRAMS / "rabbitmq-server").exists() and EPMD.exists()

    @property
    def url(self) -> str:
        """The server's virtual host of all."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def prepare(self) -> None:
        """Write its settings; an empty folder is an empty server."""
        for name in ("home", "data", "log"):
            (self.folder / name).mkdir()
        lines = (f"{name} = {value}\n" for name, value in self._settings.items())
        (self.folder / "rabbitmq.conf").write_text("".join(lines))
        (self.folder / "enabled_plugins").write_text(f"[{','.join(self._plugins)}].\n")

    def command(self) -> Sequence[str]:
        """The port mapper of Erlang's nodes and the server, in the foreground of one shell."""
        return ["sh", "-c", _RUN, "rabbitmq", str(EPMD), str(PROGRAMS / "rabbitmq-server")]

    def environment(self) -> Mapping[str, str]:
        """Where everything is; the same for the server and for those that control it."""
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.folder / "home"),
            "LC_ALL": "C.UTF-8",
            "RABBITMQ_NODENAME": f"test{self._epmd_port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_PID_FILE": str(self.folder / "rabbitmq.pid"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": self._erlang,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
        }

    def is_ready(self) -> bool:
        """Whether it begins to speak AMQP; it listens once its queues are there."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=_TRY_WITHIN_S) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def close(self) -> None:
        """Kill it and remove its folder: an orderly end takes seconds, and its data goes anyway."""
        self.kill()
        super().close()

    def control(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` and return what it printed."""
        return subprocess.run(
            [str(PROGRAMS / "rabbitmqctl"), "--quiet", *arguments],
            env=dict(self.environment()),
            capture_output=True,
            text=True,
            check=True,
            timeout=_CONTROL_WITHIN_S,
        ).stdout

    def manage(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """Ask the HTTP API of the management plugin as guest; return what it answered, None for nothing.

        Unlike ``control`` it starts no Erlang of its own.

        Args:
            path: what follows ``/api/``, such as ``policies/%2F/mine``.

        Raises:
            ServerError: it refused; the message ends with what it said.
        """
        sent = None if body is None else json.dumps(body)
        with closing(HTTPConnection("127.0.0.1", self.management_port, timeout=_MANAGE_WITHIN_S)) as connection:
            connection.request(method, f"/api/{path}", sent, _GUEST)
            answer = connection.getresponse()
            said = answer.read().decode()
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise ServerError(f"{self.name} answered {answer.status} to {method} {path}: {said}")
        return json.loads(said) if said else None

    def port_was_taken(self, log: str) -> bool:
        """Whether the server could not bind."""
        return "eaddrinuse" in log or "Address already in use" in log

    def may_pass(self, log: str) -> bool:
        """Whether the node's name is still taken by a predecessor that is just ending."""
        return "already running" in log
