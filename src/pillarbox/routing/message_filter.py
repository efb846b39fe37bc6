"""A filter: what its condition holds for passes, the rest is discarded, and that is told."""

from __future__ import annotations

from pillarbox.channel import address_of
from pillarbox.errors import ConfigurationError
from pillarbox.routing.conditions import ConditionLike, condition_of
from pillarbox.routing.reach import is_always, is_never
from pillarbox.routing.route import Decision, Route, Rule, RuleExplanation, Source
from pillarbox.routing.view import RoutedMessage


class MessageFilter(Route):
    """Forwards the messages that its condition holds for and discards the others.

    Discarding is what it is for, so it is no failure; each discarded message is told of as ``MessageFiltered``, once
    its handling is durable. Name ``discard_to`` to keep what does not pass. A condition that fails discards nothing:
    the message is a dead letter of the filter.

    EIP: *Message Filter*.
    """

    def __init__(
        self,
        name: str,
        *,
        keep: ConditionLike,
        to: str,
        source: Source | None = None,
        discard_to: str | None = None,
    ) -> None:
        """Name the filter, its condition and where the messages go that pass.

        Args:
            name: its durable name within the service.
            keep: holds for the messages that pass.
            to: the channel for these.
            source: the channels it takes messages from, or the classes of messages; left out: the queue of its name.
            discard_to: the channel for the others; left out: they end here.

        Raises:
            ConfigurationError: the condition or a channel is not as it should be.
        """
        super().__init__(name, source=source)
        try:
            self._rule = Rule(name="keep", condition=condition_of(keep), to=address_of(to))
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error}") from error
        self._discard_to = None if discard_to is None else address_of(discard_to)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Where messages pass to, and where the others are kept."""
        return (self._rule.to,) if self._discard_to is None else (self._rule.to, self._discard_to)

    def decide(self, message: RoutedMessage, /) -> Decision:
        """Let it pass, or discard it."""
        if self._rule.applies(message, route=self.name):
            return Decision(destinations=(self._rule.to,))
        if self._discard_to is None:
            return Decision(destinations=())
        return Decision(destinations=(self._discard_to,), by_default=True)

    def rules_for(self, message: RoutedMessage, /) -> tuple[RuleExplanation, ...]:
        """Explain the condition."""
        return (self._rule.explained(message, decides=True),)

    def problems(self) -> list[ConfigurationError]:
        """Add a condition that filters nothing, or everything."""
        found = super().problems()
        if is_always(self._rule.condition):
            found.append(ConfigurationError(f"{self.name}: its condition always holds, so it filters nothing"))
        if is_never(self._rule.condition):
            found.append(ConfigurationError(f"{self.name}: its condition contradicts itself, so nothing would pass"))
        return found
