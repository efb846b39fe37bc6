"""What all kinds of routes share: where their messages come from, where each goes, and how that is explained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pillarbox.channel import address_of, is_queue
from pillarbox.errors import ConditionError, ConfigurationError, UnmatchedMessageError
from pillarbox.errors.reading import text_of
from pillarbox.message import Message, check_name, message_type_of
from pillarbox.routing.conditions import Condition
from pillarbox.routing.view import Reader, RoutedMessage, reader_of

Source: TypeAlias = str | type[object] | Sequence[str | type[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Where a message goes.

    Attributes:
        destinations: the addresses that get a copy, each once.
        tapped: those that get a marked copy, beside the message's own way.
        by_default: nothing else was decided.
    """

    destinations: tuple[str, ...]
    tapped: tuple[str, ...] = ()
    by_default: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleExplanation:
    """What one rule says to a message.

    Attributes:
        matched: ``None`` when its condition failed.
        why: what the condition found and what it looked for.
        to: where the rule leads.
        decides: whether the message goes there because of it.
    """

    rule: str
    matched: bool | None
    why: str
    to: str
    decides: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a route would do with a message.

    Attributes:
        outcome: ``routed``, ``default``, ``discarded``, or ``dead``: the message would be a dead letter of the route.
        destinations: the addresses that would get a copy.
        reason: why it would be dead; ``None`` where it would not.
    """

    route: str
    message_id: str
    message_type: str
    rules: tuple[RuleExplanation, ...]
    outcome: str
    destinations: tuple[str, ...]
    reason: str | None = None

    def __str__(self) -> str:
        """Return it in lines for a person."""
        goes = " and ".join(self.destinations) or self.reason or "nowhere"
        lines = [f"{self.route}: {self.message_type} {self.message_id} is {self.outcome}: {goes}"]
        for rule in self.rules:
            answer = "failed" if rule.matched is None else "yes" if rule.matched else "no"
            lines.append(f"  {'>' if rule.decides else ' '} {rule.rule} -> {rule.to}: {answer}, {rule.why}")
        return "\n".join(lines)


class Route(ABC):
    """Takes messages from channels and forwards copies to others; it decides only, a consumer does the work."""

    def __init__(self, name: str, *, source: Source | None) -> None:
        """Take messages from ``source``: channels, or the classes of messages; left out, the queue of the same name."""
        self.name = check_name(name, what="the name of a route")
        said = (name,) if source is None else (source,) if isinstance(source, (str, type)) else tuple(source)
        self.types = tuple(one for one in said if not isinstance(one, str))
        """The classes of messages it takes; empty: whatever its channels bring."""
        channels = [address_of(one) for one in said if isinstance(one, str)]
        if bool(self.types) is bool(channels):
            raise ConfigurationError(
                f"{name}: source= takes channels, or classes of messages, and at least one of them"
            )
        found = channels or [message_type_of(kind).destination for kind in self.types]
        self.source = tuple(dict.fromkeys(found))
        """The addresses it receives from."""

    def takes(self, message: Message, /) -> bool:
        """Tell whether ``message`` is for it, coming from where it does."""
        if message.destination not in self.source:
            return False
        names = {message_type_of(kind).name for kind in self.types}
        return not names or message.type in names or is_queue(message.destination)

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Every address that it may forward to."""

    @abstractmethod
    def decide(self, message: RoutedMessage, /) -> Decision:
        """Decide where ``message`` goes.

        Raises:
            ConditionError: a condition cannot be judged.
            UnmatchedMessageError: nothing applies, and there is no default.
        """

    @abstractmethod
    def rules_for(self, message: RoutedMessage, /) -> tuple[RuleExplanation, ...]:
        """Explain each rule."""

    def problems(self) -> list[ConfigurationError]:
        """Return what is wrong with it as a whole; start-up reports it."""
        return [
            ConfigurationError(f"{self.name}: it would forward to {output!r}, which it receives from; name another")
            for output in self.outputs
            if output in self.source
        ]

    def explain(self, message: object, /, *, reader: Reader | None = None) -> Explanation:
        """Explain what would become of ``message``; nothing is sent.

        Args:
            message: a message, or an object of a declared class.
            reader: reads bodies; ``Pillarbox.explain`` gives its box's own.

        Raises:
            ConfigurationError: it is no message.
        """
        view = (reader or reader_of(*self.types)).view(message)
        rules = self.rules_for(view)
        reason: str | None = None
        destinations: tuple[str, ...] = ()
        try:
            decision = self.decide(view)
        except (ConditionError, UnmatchedMessageError) as error:
            outcome, reason = "dead", str(error)
        else:
            destinations = (*decision.destinations, *decision.tapped)
            outcome = "default" if decision.by_default else "routed" if destinations else "discarded"
        return Explanation(
            route=self.name,
            message_id=view.id,
            message_type=view.type,
            rules=rules,
            outcome=outcome,
            destinations=destinations,
            reason=reason,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A condition, and where a message goes for which it holds.

    Attributes:
        to: an address.
    """

    name: str
    condition: Condition
    to: str

    def applies(self, message: RoutedMessage, *, route: str) -> bool:
        """Judge the condition.

        Raises:
            ConditionError: it raised; whatever that was, a later attempt would find the same.
        """
        try:
            return self.condition.holds(message)
        except Exception as error:
            raise ConditionError(router=route, rule=self.name, reason=reason_of(error)) from error

    def explained(self, message: RoutedMessage, *, decides: bool) -> RuleExplanation:
        """Explain what the condition says to ``message``."""
        matched: bool | None = None
        try:
            matched = self.condition.holds(message)
            why = self.condition.why(message)
        except Exception as error:
            why = reason_of(error)
        return RuleExplanation(rule=self.name, matched=matched, why=why, to=self.to, decides=decides and bool(matched))


def reason_of(error: Exception) -> str:
    """Word what a condition raised."""
    return f"{type(error).__qualname__}: {text_of(error)}"
