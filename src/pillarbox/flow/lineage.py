"""Who caused whom, of the messages of one process: also by way of messages that nobody saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pillarbox.flow.graph import Graph
from pillarbox.flow.record import SeenMessage
from pillarbox.message import derived_message_id


class Lineage:
    """The messages of one process and their causes.

    A command goes to one consumer, and a route's copy to a queue: neither is seen. Each is known from what it caused,
    which names it; what caused *it* is told by the graph, where only one message fits.
    """

    def __init__(self, messages: Sequence[SeenMessage], graph: Graph) -> None:
        """Put ``messages`` in order."""
        self.messages = {one.message_id: one for one in messages}
        for one in sorted(messages, key=_order):
            if one.causation_id is not None and one.causation_id not in self.messages and one.cause is not None:
                self.messages[one.causation_id] = SeenMessage(
                    correlation_id=one.correlation_id,
                    message_id=one.causation_id,
                    passage=one.cause,
                    hop=max(one.hop - 1, 0),
                )
        self._parents = {one.message_id: self._parent(one, graph) for one in self.messages.values()}
        self._children: dict[str | None, list[SeenMessage]] = {}
        for one in sorted(self.messages.values(), key=_order):
            self._children.setdefault(self._parents[one.message_id], []).append(one)

    def parent(self, message: SeenMessage) -> SeenMessage | None:
        """Return what caused ``message``; ``None`` for the first one, and where it is not known."""
        found = self._parents[message.message_id]
        return None if found is None else self.messages[found]

    def children(self, message: SeenMessage | None) -> list[SeenMessage]:
        """Return what ``message`` caused, in order; of ``None``: those of which no cause is known."""
        return self._children.get(None if message is None else message.message_id, [])

    def follows(self, later: SeenMessage, earlier: SeenMessage) -> bool | None:
        """Tell whether ``later`` was caused by ``earlier``, at once or by way of others; ``None``: nobody knows.

        What was caused by another message like ``earlier`` was not caused by this one.
        """
        first = later
        for first in self._ancestors(later):
            if first.message_id == earlier.message_id:
                return True
            if first.passage == earlier.passage:
                return False
        is_broken_off = self._parents[first.message_id] is None and first.hop > 0
        return None if is_broken_off and first.hop > earlier.hop else False

    def _ancestors(self, message: SeenMessage) -> Iterator[SeenMessage]:
        met = {message.message_id}
        one = self.parent(message)
        while one is not None and one.message_id not in met:
            yield one
            met.add(one.message_id)
            one = self.parent(one)

    def _parent(self, message: SeenMessage, graph: Graph) -> str | None:
        if message.causation_id is not None:
            return message.causation_id if message.causation_id in self.messages else None
        if message.seen_at is not None:
            return None
        others = [one for one in self.messages.values() if one.message_id != message.message_id]
        for one in others:
            if one.type == message.type and message.message_id in _copies(one, message, graph):
                return one.message_id
        before = [one for one in others if one.hop == message.hop - 1]
        fits = [one.message_id for one in before if _may_cause(one, message, graph)]
        return fits[0] if len(fits) == 1 else None


def _copies(original: SeenMessage, copy: SeenMessage, graph: Graph) -> list[str]:
    """Return the ids that routes give to copies of ``original`` on the channel of ``copy``."""
    routes = [one.consumer for one in graph.publishers(copy.passage) if one.forwards]
    return [derived_message_id(original.message_id, route, copy.passage.channel) for route in routes]


def _may_cause(one: SeenMessage, message: SeenMessage, graph: Graph) -> bool:
    return any(message.passage in hearer.answers_to(one.passage) for hearer in graph.hearers(one.passage))


def _order(message: SeenMessage) -> tuple[int, float, str]:
    at = message.published_at or message.seen_at
    return message.hop, 0.0 if at is None else at.timestamp(), message.message_id
