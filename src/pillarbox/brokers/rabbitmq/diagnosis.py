"""The doctor of RabbitMQ: what its queues, policies and nodes make of a confirm.

The rows of RELIABILITY behind the codes: ``queue-type`` Q2, ``delivery-limit`` Q4, ``alarm`` Q10, ``queue-length`` Q11,
``message-ttl`` Q12, ``consumer-timeout`` Q6. ``alternate-exchange``: RabbitMQ, *Alternate Exchanges*.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pillarbox.brokers.rabbitmq.address import Address
from pillarbox.brokers.rabbitmq.layout import dead_of, kept_of, mark_of
from pillarbox.brokers.rabbitmq.management import ManagementError, ask_exchanges, ask_management
from pillarbox.brokers.rabbitmq.wire import Wire
from pillarbox.channel.address import QUEUE, TOPIC
from pillarbox.control.diagnosis import Finding, Severity, problem, well

PLENTY: Final = 1000
"""Deliveries of a message that no rebalancing of instances reaches."""
ALTERNATE: Final = "alternate-exchange"
ENOUGH_MS: Final = 30 * 60 * 1000
"""What a server grants a consumer for a message by itself; its own setting no client is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFacts:
    """What the doctor judges of a queue; settings are the queue's own, or those of policies, whichever hold.

    Attributes:
        settings: by the names of policies: ``delivery-limit``, ``overflow``, ``message-ttl``…
        members: how many nodes have a copy of it.
        online: how many of these are up.
    """

    name: str
    kind: str
    settings: Mapping[str, Any]
    members: int
    online: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitMqFacts:
    """Everything that the doctor judges.

    Attributes:
        blocked: why the server takes no messages on our connection, if so.
        untold: why queues and nodes could not be looked at; ``None`` where they could.
        nodes: the names of those that run.
        alarms: nodes that are short of something, and of what.
        alternates: by our exchanges, where what no queue of theirs takes goes instead of back to its sender.
    """

    version: str
    blocked: str | None
    untold: str | None
    nodes: Sequence[str] = ()
    alarms: Sequence[str] = ()
    queues: Sequence[QueueFacts] = ()
    alternates: Mapping[str, str] = field(default_factory=dict[str, str])


async def look(wire: Wire, address: Address) -> RabbitMqFacts:
    """Ask the server, and its HTTP API where the URL names it."""
    version = str(wire.server.get("version", "?"))
    base = address.management
    if base is None:
        return RabbitMqFacts(version=version, blocked=wire.blocked, untold="the URL names no management=…")
    try:
        nodes, queues = await ask_management(address, base)
        exchanges, policies = await ask_exchanges(address, base)
    except ManagementError as error:
        return RabbitMqFacts(version=version, blocked=wire.blocked, untold=str(error))
    kinds = {"mem_alarm": "memory", "disk_free_alarm": "disk"}
    return RabbitMqFacts(
        version=version,
        blocked=wire.blocked,
        untold=None,
        nodes=[str(node["name"]) for node in nodes if node.get("running")],
        alarms=[f"{node['name']}: {what}" for node in nodes for flag, what in kinds.items() if node.get(flag)],
        queues=[queue_facts(queue) for queue in queues if _has_messages(str(queue["name"]))],
        alternates=alternates_of(exchanges, policies),
    )


def _has_messages(queue: str) -> bool:
    return queue.startswith((QUEUE, TOPIC)) and queue != mark_of(queue.rpartition("/")[0])


def judge_rabbitmq(facts: RabbitMqFacts) -> list[Finding]:
    """Return every finding, good and bad."""
    return [well("rabbitmq-version", "RabbitMQ", facts.version), *_taking(facts), *_told(facts)]


def _taking(facts: RabbitMqFacts) -> Iterator[Finding]:
    short = [*facts.alarms, *([] if facts.blocked is None else [facts.blocked])]
    if not short:
        yield well("alarm", "alarms", "none")
        return
    means = "it takes no messages; they wait in the outbox"
    do = "let consumers drain their queues, or give the nodes more memory or disk"
    yield problem("alarm", Severity.ERROR, "alarms", ", ".join(short), means=means, do=do)


def _told(facts: RabbitMqFacts) -> Iterator[Finding]:
    if facts.untold is not None:
        means = "policies can drop messages of our queues, and whether any does cannot be told"
        do = "enable the plugin rabbitmq_management and name it: amqp://…?management=http://host:15672"
        yield problem("management", Severity.NOTICE, "queues and policies", facts.untold, means=means, do=do)
        return
    yield well("management", "queues and policies", f"looked at {len(facts.queues)} queues")
    yield from _copies(facts)
    yield from _alternates(facts.alternates)
    for code, judge in {
        "queue-type": _type,
        "delivery-limit": _delivery_limit,
        "queue-length": _length,
        "message-ttl": _time_to_live,
        "consumer-timeout": _patience,
    }.items():
        found = [finding for queue in facts.queues if (finding := judge(queue)) is not None]
        yield from found or [well(code, "queues", "all as they should be")]


def _copies(facts: RabbitMqFacts) -> Iterator[Finding]:
    lacking = [queue.name for queue in facts.queues if queue.online < queue.members]
    if lacking:
        means = "one more node that stops may stop them: what they hold waits, and what is sent to them is not taken"
        what = f"{len(lacking)} queues lack a node, as does {lacking[0]}"
        yield problem("copies", Severity.WARNING, "nodes", what, means=means, do="bring the missing nodes back")
    elif len(facts.nodes) < 2:
        means = "what was confirmed is on one disk; when it is lost, so are they"
        do = "run three nodes, or keep published records: RelaySettings(keep=…)"
        yield problem("copies", Severity.NOTICE, "nodes", "one", means=means, do=do)
    else:
        yield well("copies", "nodes", str(len(facts.nodes)))


def _alternates(found: Mapping[str, str]) -> Iterator[Finding]:
    if not found:
        yield well("alternate-exchange", "exchanges", "none")
    for exchange, alternate in found.items():
        means = "what goes to a topic that nobody has subscribed to is confirmed, and its consumers never get it"
        do = "take alternate-exchange out of the policy or the exchange"
        yield problem("alternate-exchange", Severity.ERROR, exchange, alternate, means=means, do=do)


def _type(queue: QueueFacts) -> Finding | None:
    if queue.kind == "quorum":
        return None
    means = "a crash of its node takes back what was confirmed, or all of it"
    do = "drain and delete it; it is made again as a quorum queue"
    return problem("queue-type", Severity.ERROR, queue.name, queue.kind, means=means, do=do)


def _delivery_limit(queue: QueueFacts) -> Finding | None:
    limit = queue.settings.get("delivery-limit")
    if limit is None or int(limit) > PLENTY or int(limit) < 0:
        return None
    severity, fate = _fate(queue)
    means = f"what was delivered that often {fate}; each restart of a consumer counts"
    return problem(
        "delivery-limit", severity, queue.name, str(limit), means=means, do="take delivery-limit out of the policy"
    )


def _length(queue: QueueFacts) -> Finding | None:
    limits = [name for name in ("max-length", "max-length-bytes") if name in queue.settings]
    if not limits or queue.settings.get("overflow") == "reject-publish":
        return None
    means = "when it is full its oldest messages are dropped, confirmed as they are"
    do = "take the limit out of the policy, or set overflow to reject-publish"
    return problem("queue-length", Severity.ERROR, queue.name, ", ".join(limits), means=means, do=do)


def _time_to_live(queue: QueueFacts) -> Finding | None:
    found = [name for name in ("message-ttl", "expires") if name in queue.settings]
    if not found:
        return None
    if "expires" in found:
        severity = Severity.ERROR
        means = "while nobody reads it, the queue with all of its messages is dropped in silence"
    else:
        severity, fate = _fate(queue)
        means = f"what waits longer {fate}"
    do = f"take {' and '.join(found)} out of the policy"
    return problem("message-ttl", severity, queue.name, ", ".join(found), means=means, do=do)


def _patience(queue: QueueFacts) -> Finding | None:
    limit = queue.settings.get("consumer-timeout")
    if limit is None or int(limit) >= ENOUGH_MS:
        return None
    means = (
        "the server takes the messages of a handler back that needs longer, and delivers them again; the inbox knows "
        "them, and what has no inbox does its work twice"
    )
    do = "set consumer-timeout beyond the longest handler, or take it out of the policy"
    return problem("consumer-timeout", Severity.NOTICE, queue.name, f"{limit} ms", means=means, do=do)


def _fate(queue: QueueFacts) -> tuple[Severity, str]:
    """Say how bad it is, and what becomes of a message that the server removes by a limit."""
    place = queue.name.rpartition("/")[0]
    goes_to = queue.settings.get("dead-letter-routing-key")
    if goes_to == dead_of(place):
        return Severity.WARNING, "becomes a dead letter of its consumer, handled or not"
    if goes_to == kept_of(place):
        return Severity.ERROR, (
            "before its consumer has read it as a dead letter stays in the server, where nobody can get at it until a "
            f"queue is bound under {goes_to}: see the page about RabbitMQ"
        )
    return Severity.ERROR, "is lost to its consumer: this queue was not made by Pillarbox"


def alternates_of(exchanges: Sequence[Mapping[str, Any]], policies: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the alternate exchanges of ours; the exchange's own argument is stronger than a policy."""
    of_policies = {one["name"]: one["definition"].get(ALTERNATE) for one in policies}
    found: dict[str, str] = {}
    for one in exchanges:
        arguments: Mapping[str, Any] = one.get("arguments") or {}
        alternate = arguments.get(ALTERNATE) or of_policies.get(one.get("policy"))
        if alternate and str(one["name"]).startswith((QUEUE, TOPIC)):
            found[str(one["name"])] = str(alternate)
    return found


def queue_facts(told: Mapping[str, Any]) -> QueueFacts:
    """Put together what holds: of numbers the smaller, of others the queue's own."""
    arguments: Mapping[str, Any] = told.get("arguments") or {}
    policy: Mapping[str, Any] = told.get("effective_policy_definition") or {}
    settings = dict(policy)
    for argument, value in arguments.items():
        name = argument.removeprefix("x-")
        limit: Any = policy.get(name)
        settings[name] = min(value, limit) if isinstance(value, int) and isinstance(limit, int) else value
    return QueueFacts(
        name=str(told["name"]),
        kind=str(told.get("type", "?")),
        settings=settings,
        members=len(told.get("members") or ()),
        online=len(told.get("online") or ()),
    )
