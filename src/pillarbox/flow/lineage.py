"""Who caused whom, of the messages of one process: also by way of messages that nobody saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pillarbox.flow.graph import Graph
from pillarbox.flow.participant import Passage
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
        self._by_hop: dict[int, list[SeenMessage]] = {}
        self._by_type: dict[str, list[SeenMessage]] = {}
        self._known_causes: dict[Passage, frozenset[Passage]] = {}
        in_order = sorted(self.messages.values(), key=_order)
        for one in in_order:
            self._by_hop.setdefault(one.hop, []).append(one)
            self._by_type.setdefault(one.type, []).append(one)
        self._parents = {one.message_id: self._parent(one, graph) for one in in_order}
        for one in in_order:
            if self._is_its_own_cause(one):
                self._parents[one.message_id] = None
        self._children: dict[str | None, list[SeenMessage]] = {}
        self._answers: dict[str, set[str]] = {}
        self.adrift: list[SeenMessage] = []
        """Messages that something came before which is not known."""
        for one in in_order:
            self._children.setdefault(self._parents[one.message_id], []).append(one)
            self._place(one)

    def parent(self, message: SeenMessage) -> SeenMessage | None:
        """Return what caused ``message``; ``None`` for the first one, and where it is not known."""
        found = self._parents[message.message_id]
        return None if found is None else self.messages[found]

    def children(self, message: SeenMessage | None) -> list[SeenMessage]:
        """Return what ``message`` caused, in order; of ``None``: those of which no cause is known."""
        return self._children.get(None if message is None else message.message_id, [])

    def answers_to(self, message: SeenMessage) -> frozenset[str]:
        """Return the types of what was caused by ``message``, at once or by way of others.

        What was caused by another message like it, which it caused itself, is an answer to that one.
        """
        return frozenset(self._answers.get(message.message_id, ()))

    def may_follow(self, later: SeenMessage, earlier: SeenMessage) -> bool:
        """Tell whether ``later``, which is adrift, may have been caused by ``earlier``."""
        comes_later = later.hop > earlier.hop
        return comes_later and all(one.passage != earlier.passage for one in self._ancestors(later))

    def _place(self, message: SeenMessage) -> None:
        first, met = message, set[Passage]()
        for first in self._ancestors(message):
            if first.passage not in met:
                met.add(first.passage)
                self._answers.setdefault(first.message_id, set()).add(message.type)
        if first.hop > 0 and self._parents[first.message_id] is None:
            self.adrift.append(message)

    def _ancestors(self, message: SeenMessage) -> Iterator[SeenMessage]:
        met = {message.message_id}
        one = self.parent(message)
        while one is not None and one.message_id not in met:
            yield one
            met.add(one.message_id)
            one = self.parent(one)

    def _is_its_own_cause(self, message: SeenMessage) -> bool:
        """Tell whether the causes of ``message``, which others may have named, lead back to it.

        Such causes are no farther from the first message somewhere: there the circle is cut.
        """
        parent = self.parent(message)
        if parent is None or parent.hop < message.hop:
            return False
        return parent is message or any(
            self._parents[one.message_id] == message.message_id for one in self._ancestors(message)
        )

    def _parent(self, message: SeenMessage, graph: Graph) -> str | None:
        if message.causation_id is not None:
            return message.causation_id if message.causation_id in self.messages else None
        if message.seen_at is not None:
            return None
        channel = message.passage.channel
        for route in [one.consumer for one in graph.publishers(message.passage) if one.forwards]:
            for one in self._by_type[message.type]:
                if message.message_id == derived_message_id(one.message_id, route, channel):
                    return one.message_id
        causes = self._causes_of(message.passage, graph)
        fits = (one.message_id for one in self._by_hop.get(message.hop - 1, ()) if one.passage in causes)
        first, second = next(fits, None), next(fits, None)
        return first if second is None else None

    def _causes_of(self, passage: Passage, graph: Graph) -> frozenset[Passage]:
        """Return what may lead to ``passage`` at once."""
        if passage not in self._known_causes:
            self._known_causes[passage] = graph.causes_of(passage)
        return self._known_causes[passage]


def _order(message: SeenMessage) -> tuple[int, float, str]:
    at = message.published_at or message.seen_at
    return message.hop, 0.0 if at is None else at.timestamp(), message.message_id
