"""A tap: somebody else listens, and nobody on the line notices."""

from __future__ import annotations

from pillarbox.channel import address_of, is_queue
from pillarbox.errors import ConfigurationError
from pillarbox.routing.route import Decision, Route, RuleExplanation, Source
from pillarbox.routing.view import RoutedMessage


class WireTap(Route):
    """Sends a marked copy of every message to a channel of its own, beside the message's way.

    On a topic the tap is one more subscriber: the others get their messages as before, whatever happens to the tap. A
    queue has one consumer, so a tap stands in the line: it takes the messages and forwards them to ``then``, where
    their consumer listens. Both copies are written in one transaction, and leave each for itself: a channel that is not
    ready keeps its own copies waiting in the outbox, and no others.

    The copy says who tapped it (the header ``tappedby``) and bears no return address. A tap has no condition, so that
    none can fail: put a ``MessageFilter`` behind it.

    EIP: *Wire Tap*.
    """

    def __init__(self, name: str, *, to: str, source: Source | None = None, then: str | None = None) -> None:
        """Name the tap and where its copies go.

        Args:
            name: its durable name within the service.
            to: the channel that listens; ``audit`` is short for ``queue:audit``.
            source: the channels that are tapped, or the classes of messages; left out: the queue of its name.
            then: where the message itself goes on to; needed where a queue is tapped.

        Raises:
            ConfigurationError: a channel is not valid.
        """
        super().__init__(name, source=source)
        self._to = address_of(to)
        self._then = None if then is None else address_of(then)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tap's channel, and where the message goes on to."""
        return (self._to,) if self._then is None else (self._to, self._then)

    def decide(self, message: RoutedMessage, /) -> Decision:
        """Copy it, whatever it is."""
        return Decision(destinations=() if self._then is None else (self._then,), tapped=(self._to,))

    def rules_for(self, message: RoutedMessage, /) -> tuple[RuleExplanation, ...]:
        """Say that every message is tapped."""
        parts = [("tap", self._to), *([] if self._then is None else [("then", self._then)])]
        return tuple(
            RuleExplanation(rule=rule, matched=True, why="every message is", to=to, decides=True) for rule, to in parts
        )

    def problems(self) -> list[ConfigurationError]:
        """Add what would take messages from somebody."""
        found = super().problems()
        if any(is_queue(channel) for channel in self.source) and self._then is None:
            found.append(
                ConfigurationError(
                    f"{self.name}: it taps a queue, whose messages go to one consumer, and would take them away; name "
                    "then=, the channel where they go on and their consumer listens"
                )
            )
        if any(not is_queue(channel) for channel in self.source) and self._then is not None:
            found.append(
                ConfigurationError(
                    f"{self.name}: a topic's subscribers get its messages anyway; leave then= out, or they come twice"
                )
            )
        if self._then == self._to:
            found.append(ConfigurationError(f"{self.name}: to= and then= are the same channel; name two"))
        return found
