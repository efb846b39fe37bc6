"""What a URL says about a Kafka: where it is, how topics are made, and options of the client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from pillarbox.errors import ConfigurationError

Options: TypeAlias = dict[str, str | int | float | bool]

OURS: Final = frozenset(
    {
        "acks",
        "auto.offset.reset",
        "bootstrap.servers",
        "client.id",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.gapless.guarantee",
        "enable.idempotence",
        "group.id",
        "max.in.flight.requests.per.connection",
        "message.timeout.ms",
        "partitioner",
        "request.required.acks",
        "transactional.id",
    }
)
"""Options of the client that a guarantee rests on."""
RECORD_OVERHEAD_BYTES: Final = 40_960
"""Room for the key, the headers and the frame of a message beside its body."""
DEFAULT_RECORD_BYTES: Final = 1_048_576

_OF_CONSUMERS: Final = (
    "session.",
    "heartbeat.",
    "max.poll.",
    "fetch.",
    "queued.",
    "group.",
    "isolation.",
    "partition.",
)
_OF_PRODUCERS: Final = ("linger.", "compression.", "batch.", "queue.buffering.", "sticky.")
_CONSUMER: Final[Options] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "partition.assignment.strategy": "cooperative-sticky",
    "queued.max.messages.kbytes": 16_384,
    "queued.min.messages": 2_000,
    "fetch.queue.backoff.ms": 10,
}
_PRODUCER: Final[Options] = {
    "enable.idempotence": True,
    "enable.gapless.guarantee": True,
    "message.timeout.ms": 0,
    "max.in.flight.requests.per.connection": 1,
    "acks": "all",
    "partitioner": "murmur2_random",
    "linger.ms": 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """One Kafka, and how to use it.

    Attributes:
        servers: addresses to begin with, ``host:port``, separated by commas.
        partitions: of a topic that is made here.
        replication: copies of a topic that is made here; -1 leaves it to the server.
        begin: where a consumer begins on a topic that it has no place on yet: ``latest``, what is sent from now on,
            or ``earliest``.
        drain_within: how long a partition that goes to another instance is kept for the sake of what is being handled.
        confirm_within: how long a batch may take to be confirmed.
        client: options of librdkafka.
    """

    servers: str
    partitions: int = 16
    replication: int = -1
    begin: str = "latest"
    drain_within: timedelta = timedelta(seconds=10)
    confirm_within: timedelta = timedelta(seconds=3.5)
    client: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def max_record_bytes(self) -> int:
        """The largest record that the client takes."""
        return int(self.client.get("message.max.bytes", DEFAULT_RECORD_BYTES))

    @property
    def max_body_bytes(self) -> int:
        """The largest body that is taken."""
        return self.max_record_bytes - RECORD_OVERHEAD_BYTES

    def admin(self) -> Options:
        """Return the options of a client that asks and makes."""
        return self._common(without=(*_OF_CONSUMERS, *_OF_PRODUCERS))

    def producer(self) -> Options:
        """Return the options of a client that sends."""
        return {**_PRODUCER, **self._common(without=_OF_CONSUMERS)}

    def consumer(self, group: str) -> Options:
        """Return the options of a client that receives for ``group``."""
        return {**_CONSUMER, **self._common(without=_OF_PRODUCERS), "group.id": group}

    def _common(self, *, without: tuple[str, ...]) -> Options:
        chosen = {name: value for name, value in self.client.items() if not name.startswith(without)}
        return {
            "log_level": 2,
            "message.max.bytes": DEFAULT_RECORD_BYTES,
            "topic.metadata.refresh.interval.ms": 30_000,
            "socket.timeout.ms": 10_000,  # of a connection that everybody has forgotten nothing else is ever heard
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1_000,
            **chosen,
            "bootstrap.servers": self.servers,
        }


def settings_of(url: str) -> KafkaSettings:
    """Read ``kafka://[user:password@]host:port[,host:port]?option=…``.

    ``partitions``, ``replication``, ``begin`` and ``drain`` (seconds) are ours; names with a dot are librdkafka's.

    Raises:
        ConfigurationError: it is no such URL, or an option would take away a guarantee.
    """
    parts = urlsplit(url)
    credentials, _, servers = parts.netloc.rpartition("@")
    if parts.scheme != "kafka" or not servers or parts.path.strip("/"):
        raise ConfigurationError(
            "what broker= names is no URL of a Kafka; write kafka://host:port[,host:port]?option=…"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    client = {name: value for name, value in options.items() if "." in name or name in OURS}
    if taken := sorted(client.keys() & OURS):
        raise ConfigurationError(
            f"the option {taken[0]} of Kafka's client is not yours to choose: a guarantee rests on it"
        )
    if credentials:
        user, _, password = credentials.partition(":")
        secrets = {"sasl.username": unquote(user), "sasl.password": unquote(password)}
        client = {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512", **secrets, **client}
    ours = {name: value for name, value in options.items() if name not in client}
    if unknown := sorted(ours.keys() - {"partitions", "replication", "begin", "drain"}):
        raise ConfigurationError(f"there is no option {unknown[0]!r} of a Kafka broker; names of librdkafka have a dot")
    begin = ours.get("begin", "latest")
    if begin not in ("latest", "earliest"):
        raise ConfigurationError(f"a consumer begins at 'latest' or 'earliest', not at {begin!r}")
    return KafkaSettings(
        servers=servers,
        partitions=_number(ours, "partitions", 16),
        replication=_number(ours, "replication", -1),
        begin=begin,
        drain_within=timedelta(seconds=_number(ours, "drain", 10)),
        client=client,
    )


def _number(options: Mapping[str, str], name: str, default: int) -> int:
    text = options.get(name)
    if text is None:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(f"the option {name} of a Kafka broker is a whole number from 1, not {text!r}")
    return int(text)
