"""A private Apache Kafka: one node that is broker and controller at once, from its Maven artifacts."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers.errors import ServerMissingError, ServerStartError
from tests.servers.packages import install_packages, one_at_a_time
from tests.servers.ports import free_port
from tests.servers.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

VERSION = "4.1.0"
SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
    "auto.create.topics.enable": "false",
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "broker.session.timeout.ms": "1500",
    "broker.heartbeat.interval.ms": "300",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "num.partitions": "4",
    "log.cleaner.dedupe.buffer.size": "4194304",
}
JVM = ("-Xms64m", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>pillarbox</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version>
    </dependency>
  </dependencies>
</project>
"""
_LOG = """rootLogger.level = WARN
rootLogger.appenderRef.out.ref = out
appender.out.name = out
appender.out.type = Console
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1} %m%n
"""
_CLUSTER_ID = "cGlsbGFyYm94LWthZmthMQ"
_FORMAT_WITHIN_S = 60
_FETCH_WITHIN_S = 600


def cluster() -> Iterator[list[KafkaServer]]:
    """Run three nodes, the first with the controller, and end them; of three copies a confirm stands for two."""
    copies = {
        "default.replication.factor": "3",
        "min.insync.replicas": "2",
        "offsets.topic.replication.factor": "3",
        "transaction.state.log.replication.factor": "3",
    }
    with KafkaServer(settings=copies) as first, ExitStack() as others:
        member = {**copies, "process.roles": "broker", "controller.quorum.voters": first.controller}
        nodes = [KafkaServer(settings={**member, "node.id": number}) for number in ("2", "3")]
        yield [first, *(others.enter_context(node) for node in nodes)]


class KafkaServer(Server):
    """Kafka; ``settings`` are added to those of its properties. Topics are not made by themselves.

    Who comes by a proxy stays with it: on ``behind_proxy_port`` the broker says that it is at ``proxy_port``.
    """

    name = "kafka"
    packages = ("default-jre-headless", "maven")

    def __init__(
        self, *, settings: Mapping[str, str] | None = None, choose_port: Callable[[], int] = free_port
    ) -> None:
        super().__init__(choose_port=choose_port)
        self._settings = {**SETTINGS, **(settings or {})}
        self._controller_port = 0
        self.behind_proxy_port = 0
        self.proxy_port = free_port()

    @classmethod
    def is_installed(cls) -> bool:
        """Whether Java is on this machine, and Kafka in the cache."""
        return shutil.which("java") is not None and _libraries().is_dir()

    @classmethod
    def install(cls) -> None:
        """Install Java and Maven where they are missing, and have Maven fetch Kafka, once for all processes."""
        if cls.is_installed():
            return
        if shutil.which("java") is None or shutil.which("mvn") is None:
            install_packages(cls.packages)
        with one_at_a_time():
            if not _libraries().is_dir():
                _fetch()

    @property
    def url(self) -> str:
        """The address of the broker."""
        return f"kafka://{self.address}"

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def controller(self) -> str:
        """The controller on this node, as other nodes are told of it; changes with every start."""
        return f"{self._settings['node.id']}@127.0.0.1:{self._controller_port}"

    def prepare(self) -> None:
        """Format the storage."""
        self.before_start()
        command = self._java("kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(self._properties))
        done = subprocess.run(
            command,
            env=self.environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=_FORMAT_WITHIN_S,
            check=False,
        )
        if done.returncode != 0:
            raise ServerStartError(f"Kafka's storage could not be formatted:\n{(done.stdout + done.stderr)[-2000:]}")

    def before_start(self) -> None:
        """Write the properties; clients know the broker's ports, nobody but itself the controller's."""
        if not self._was_ready:
            self.behind_proxy_port = self._choose_port()
        listeners = f"PLAINTEXT://{self.address},PROXIED://127.0.0.1:{self.behind_proxy_port}"
        if "controller" in self._settings["process.roles"]:
            self._controller_port = self._choose_port()
            listeners += f",CONTROLLER://127.0.0.1:{self._controller_port}"
        own = {
            "listeners": listeners,
            "advertised.listeners": f"PLAINTEXT://{self.address},PROXIED://127.0.0.1:{self.proxy_port}",
            "controller.quorum.voters": self.controller,
            "log.dirs": str(self.folder / "data"),
        }
        lines = [f"{name}={value}" for name, value in {**own, **self._settings}.items()]
        self._properties.write_text("\n".join(lines) + "\n")

    def command(self) -> Sequence[str]:
        """The server in the foreground."""
        return self._java("kafka.Kafka", str(self._properties))

    def environment(self) -> Mapping[str, str]:
        """What it needs to find its program."""
        java = os.environ.get("JAVA_HOME")
        home = {"JAVA_HOME": java} if java else {}
        return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(self.folder), "LC_ALL": "C", **home}

    def is_ready(self) -> bool:
        """Whether it is registered as a broker and tells of itself."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        asking = AdminClient(
            {"bootstrap.servers": self.address, "log_level": 0, "socket.connection.setup.timeout.ms": 1000}
        )
        try:
            return bool(asking.list_topics(timeout=1.0).brokers)
        except KafkaException:
            return False

    def port_was_taken(self, log: str) -> bool:
        """Whether the server could not bind."""
        return "Address already in use" in log

    def may_pass(self, log: str) -> bool:
        """Whether a predecessor's lock on the data was still there."""
        return "Failed to acquire lock on file" in log

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def _java(self, *arguments: str) -> list[str]:
        log4j = self.folder / "log4j2.properties"
        log4j.write_text(_LOG)
        options = (*JVM, f"-Dlog4j2.configurationFile={log4j}")
        return ["java", *options, "-cp", f"{_libraries()}/*", *arguments]


def _libraries() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "pillarbox" / f"kafka-{VERSION}"


def _fetch() -> None:
    """Have Maven copy Kafka and all that it needs into the cache: as a whole, or not at all.

    Raises:
        ServerMissingError: Maven could not.
    """
    target = _libraries()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        (Path(folder) / "pom.xml").write_text(_POM)
        copy = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs", "-DincludeScope=runtime"]
        try:
            done = subprocess.run(
                copy, cwd=folder, capture_output=True, text=True, timeout=_FETCH_WITHIN_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ServerMissingError(f"Maven could not fetch Kafka {VERSION}: {error}") from error
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-2000:]
            raise ServerMissingError(f"Maven could not fetch Kafka {VERSION}:\n{said}")
        (Path(folder) / "libs").rename(target)
