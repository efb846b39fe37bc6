"""The doctor of NATS: what its streams make of a confirm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pillarbox.brokers.nats.api import Consumer, JetStream, Refusal, refused
from pillarbox.brokers.nats.connection import NatsConnection
from pillarbox.brokers.nats.consumers import LATER, consumer_config, drift
from pillarbox.brokers.nats.layout import channel_of, place_in, subject_of
from pillarbox.control.diagnosis import Finding, Severity, problem, well

LIMITS = ("max_msgs", "max_msgs_per_subject", "max_bytes", "max_age")
UNLIMITED = (-1, 0, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """A stream of ours: its configuration, and its consumers."""

    config: Mapping[str, Any]
    consumers: Sequence[Consumer]

    @property
    def name(self) -> str:
        """The stream's name."""
        return str(self.config["name"])


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsFacts:
    """Everything that the doctor judges; a cluster is what more than one server makes."""

    streams: Sequence[StreamFacts]
    is_cluster: bool


async def look(connection: NatsConnection, jetstream: JetStream) -> NatsFacts:
    """Ask the server.

    Raises:
        BrokerUnavailableError: it cannot be reached, or would not tell.
    """
    link = await connection.link()
    found: list[StreamFacts] = []
    try:
        total, offset = 1, 0
        while offset < total:
            page = await jetstream.ask("STREAM.LIST", offset=offset)
            streams = page.get("streams") or ()
            if not streams:
                break
            total, offset = page["total"], offset + len(streams)
            for stream in streams:
                if _is_ours(stream["config"]):
                    consumers = await jetstream.consumers(stream["config"]["name"])
                    found.append(StreamFacts(config=stream["config"], consumers=consumers))
    except Refusal as refusal:
        raise refused(refusal, what="the list of streams") from refusal
    return NatsFacts(streams=found, is_cluster=len(link.client.servers) + len(link.client.discovered_servers) > 1)


def judge_nats(facts: NatsFacts) -> list[Finding]:
    """Return every finding, good and bad."""
    return [finding for stream in facts.streams for finding in _judge(stream, facts)] + [_syncing()]


def _judge(stream: StreamFacts, facts: NatsFacts) -> Iterator[Finding]:
    yield from _storage(stream)
    yield _replicas(stream, is_cluster=facts.is_cluster)
    yield _retention(stream)
    if stream.config.get("no_ack"):
        means = "it confirms nothing: what goes to it is sent again and again, and delays what goes elsewhere"
        do = f"take no_ack away from the stream {stream.name}"
        yield problem("nats-confirm", Severity.ERROR, stream.name, "no_ack", means=means, do=do)
    for consumer in stream.consumers:
        partition = place_in(consumer.name)
        if partition is None:
            continue
        if changed := drift(consumer_config(channel_of(stream.name), partition), consumer.config):
            means = "messages are given up that nobody has handled, or come without their bodies, or do not come at all"
            do = "remove it while its service runs: it is made anew as it must be, and begins with all that is there"
            yield problem("nats-consumer", Severity.ERROR, consumer.name, str(changed), means=means, do=do)
        if consumer.is_paused:
            means = "it is given no messages until the pause ends; they wait in the stream"
            do = f"nats consumer resume {stream.name} {consumer.name}"
            yield problem("nats-consumer", Severity.WARNING, consumer.name, "paused", means=means, do=do)


def _storage(stream: StreamFacts) -> Iterator[Finding]:
    storage, persisted = stream.config.get("storage"), drift(LATER, stream.config)
    if storage == "file" and not persisted:
        yield well("nats-storage", stream.name, "file")
    elif storage == "file":
        means = "a confirm does not say that the message is written: what the server has yet to write goes with its end"
        do = "make the stream anew without persist_mode; the outbox keeps what is published meanwhile"
        yield problem("nats-storage", Severity.WARNING, stream.name, str(persisted), means=means, do=do)
    else:
        means = "what was confirmed is gone when the server ends"
        do = "make the stream anew with storage file; the outbox keeps what is published meanwhile"
        yield problem("nats-storage", Severity.ERROR, stream.name, str(storage), means=means, do=do)


def _replicas(stream: StreamFacts, *, is_cluster: bool) -> Finding:
    replicas = int(stream.config.get("num_replicas", 1))
    if replicas > 1 or not is_cluster:
        return well("nats-replicas", stream.name, str(replicas))
    means = "the loss of one server's disk takes what was confirmed, though others could have kept a copy"
    do = f"nats stream edit {stream.name} --replicas 3, and name replicas=3 in broker="
    return problem("nats-replicas", Severity.WARNING, stream.name, "1", means=means, do=do)


def _retention(stream: StreamFacts) -> Finding:
    config = stream.config
    limits = {name: config[name] for name in LIMITS if config.get(name) not in UNLIMITED}
    if config.get("retention") != "limits":
        means = "the server removes messages by rules of its own: what no consumer waits for is dropped when it comes"
        do = "make the stream anew with retention limits"
        return problem("nats-retention", Severity.WARNING, stream.name, str(config["retention"]), means=means, do=do)
    if not limits:
        return well("nats-retention", stream.name, "everything, until every consumer has acknowledged it")
    drops = config.get("discard") == "old" or "max_age" in limits
    means = (
        "when a limit is reached the oldest messages are removed, read or not"
        if drops
        else "when a limit is reached the server takes no more; messages wait in the outbox"
    )
    do = f"nats stream edit {stream.name}: take the limits away, or set discard new and watch how full it is"
    severity = Severity.WARNING if drops else Severity.NOTICE
    return problem("nats-retention", severity, stream.name, str(limits), means=means, do=do)


def _syncing() -> Finding:
    means = (
        "a confirm says that the message is written, not that it is on the disk: a power failure takes back what came "
        "since the last sync, two minutes by default; the end of the process alone does not"
    )
    do = "set sync_interval in the server's jetstream settings, use replicas, or keep published records: "
    return problem("nats-sync", Severity.NOTICE, "sync_interval", "not told to clients", means=means, do=f"{do}keep=…")


def _is_ours(config: Mapping[str, Any]) -> bool:
    name = str(config["name"])
    return name.startswith(("topic:", "queue:")) and subject_of(channel_of(name), "*") in config.get("subjects", ())
