"""The trace of one process: who caused whom, and what consumers made of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from pillarbox.flow.graph import Graph
from pillarbox.flow.lineage import Lineage
from pillarbox.flow.record import Handling, SeenMessage

DEEPEST = 100
"""Messages one below the other that are shown; what is below them is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedMessage:
    """A message of a process.

    Attributes:
        channel: where it was sent.
        published_by: the consumer whose handling published it, or the service where several might have; empty where
            neither is known.
        published_at: by its publisher's clock.
        seen_at: by the clock of this database; ``None``: nobody saw it, it is known from what it caused.
        handlings: what consumers of this database have made of it.
        caused: what was published when it was handled.
    """

    message_id: str
    type: str
    channel: str
    published_by: str
    published_at: datetime | None
    seen_at: datetime | None
    handlings: tuple[Handling, ...]
    caused: tuple[TracedMessage, ...]

    def lines(self, indent: str = "") -> Iterator[str]:
        """Return it and what it caused, a line each."""
        by = f" by {self.published_by}" if self.published_by else ""
        at = f" at {self.published_at.isoformat(timespec='milliseconds')}" if self.published_at is not None else ""
        unseen = " (not seen)" if self.seen_at is None and self.published_at is None else ""
        yield f"{indent}{self.type} {self.message_id}{by}{at}{unseen}"
        for one in self.handlings:
            attempts = f" after {one.attempts} failed attempts" if one.attempts else ""
            yield f"{indent}  {one.consumer}: {one.state.value}{attempts}"
        for message in self.caused:
            yield from message.lines(indent + "    ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One process, as a tree.

    Attributes:
        roots: its first message, and those of which the cause is not known.
    """

    correlation_id: str
    roots: tuple[TracedMessage, ...]

    def messages(self) -> Iterator[TracedMessage]:
        """Return all messages, each before what it caused."""
        waiting = list(reversed(self.roots))
        while waiting:
            message = waiting.pop()
            yield message
            waiting += reversed(message.caused)

    def __str__(self) -> str:
        """Return it in lines for a person."""
        return "\n".join(line for root in self.roots for line in root.lines())


def trace_of(
    correlation_id: str, messages: Sequence[SeenMessage], handlings: Iterable[Handling], graph: Graph
) -> Trace:
    """Put ``messages`` of one process into a tree."""
    lineage = Lineage(messages, graph)
    by_message: dict[str, list[Handling]] = {}
    for one in sorted(set(handlings), key=lambda one: (one.consumer, one.state)):
        by_message.setdefault(one.message_id, []).append(one)

    def grown(message: SeenMessage, above: frozenset[str]) -> TracedMessage:
        below = above | {message.message_id}
        children = lineage.children(message) if len(below) < DEEPEST else []
        return TracedMessage(
            message_id=message.message_id,
            type=message.type,
            channel=message.passage.channel,
            published_by=_publisher(message, lineage, graph),
            published_at=message.published_at,
            seen_at=message.seen_at,
            handlings=tuple(by_message.get(message.message_id, ())),
            caused=tuple(grown(child, below) for child in children if child.message_id not in below),
        )

    return Trace(
        correlation_id=correlation_id, roots=tuple(grown(root, frozenset()) for root in lineage.children(None))
    )


def _publisher(message: SeenMessage, lineage: Lineage, graph: Graph) -> str:
    """Return whose handling published ``message``: the one consumer that fits, else its service."""
    parent = lineage.parent(message)
    if parent is None:
        return message.service
    fits = [
        one.consumer
        for one in graph.hearers(parent.passage)
        if message.passage in one.answers_to(parent.passage)
        and (not message.service or one.forwards or one.consumer.startswith(f"{message.service}/"))
    ]
    return fits[0] if len(fits) == 1 else message.service
