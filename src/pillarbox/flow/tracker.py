"""The consumer that watches the events of flows, and writes down what it sees."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox.consumer import Consumer, ConsumerOptions
from pillarbox.consumer.injection import signature_of
from pillarbox.flow.definition import Flow
from pillarbox.flow.graph import Graph
from pillarbox.flow.participant import Passage
from pillarbox.flow.policy import FlowInstance, is_of_interest, moved
from pillarbox.flow.record import TRACKER, SeenMessage, seen
from pillarbox.flow.store import FlowPorts
from pillarbox.message import Message
from pillarbox.ordering import Unordered
from pillarbox.transaction import Program, adopt

AT_ONCE = 200
"""Messages that it takes in one batch."""

Track = Callable[[list[Message], AsyncConnection], Awaitable[None]]


def tracker_of(service: str, flows: Sequence[Flow], graph: Graph, ports: FlowPorts) -> Consumer:
    """Return the consumer of ``service`` that watches ``flows``: every event that may come between start and end.

    It is told of each event once in effect, by its inbox; in which order does not matter.
    """
    watched = watched_by(flows, graph)
    track = _track(flows, ports)
    identity = f"{service}/{TRACKER}"
    return Consumer(
        identity=identity,
        handler=track,
        signature=signature_of(track, owner=identity),
        options=ConsumerOptions(name=TRACKER, ordering=Unordered(), when_dead="skip", batch=AT_ONCE),
        channels=tuple(sorted({passage.channel for passage in watched})),
        message_types=frozenset(passage.type for passage in watched),
    )


def watched_by(flows: Iterable[Flow], graph: Graph) -> frozenset[Passage]:
    """Return the events of ``flows``: those that they name, and those that ``graph`` puts in between."""
    watched = set[Passage]()
    for flow in flows:
        starts, ends = ([one for one in flow.events if one.type in kinds] for kinds in (flow.starts, flow.ends))
        watched.update(flow.events)
        watched.update(graph.after(starts) | graph.before(ends))
    return frozenset(passage for passage in watched if passage.is_event)


def _track(flows: Sequence[Flow], ports: FlowPorts) -> Track:
    async def track(messages: list[Message], tx: AsyncConnection) -> None:
        await adopt(tx).run(note(messages, flows, ports))

    return track


def note(messages: Sequence[Message], flows: Sequence[Flow], ports: FlowPorts) -> Program[None]:
    """Write down ``messages``, and what they change of the processes that they are part of."""
    told = [seen(message) for message in messages]
    yield from ports.journal.note(sorted(told, key=lambda one: (one.correlation_id, one.message_id)))
    by_name = {flow.identity: flow for flow in flows}
    opened = {(flow.identity, one.correlation_id) for flow in flows for one in told if is_of_interest(one, flow)}
    met = {(flow.identity, one.correlation_id) for flow in flows for one in told} - opened
    standing = yield from ports.instances.lock(sorted(opened), sorted(met))
    changed: list[FlowInstance] = []
    for before in standing.instances:
        after = before
        for one in _of(told, before.correlation_id):
            after = moved(after, one, by_name[before.flow], standing.now)
        if after != before:
            changed.append(after)
    yield from ports.instances.save(changed)


def _of(told: Sequence[SeenMessage], correlation_id: str) -> list[SeenMessage]:
    return [one for one in told if one.correlation_id == correlation_id]
