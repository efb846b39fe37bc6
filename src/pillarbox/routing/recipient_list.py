"""A list of recipients, all or chosen for each message."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias, cast

from pillarbox.channel import address_of
from pillarbox.errors import ConditionError, ConfigurationError, UnmatchedMessageError
from pillarbox.routing.fields import MISSING, Field, field_at
from pillarbox.routing.route import Decision, Route, RuleExplanation, Source, reason_of
from pillarbox.routing.view import RoutedMessage

Chooser: TypeAlias = str | Callable[[RoutedMessage], Iterable[str]]


class RecipientList(Route):
    """Forwards a copy of each message to every recipient, or to those that are chosen for it.

    Who may be chosen is said beforehand: a message cannot name a channel of its own. A recipient that is chosen twice
    gets one copy. If nobody is chosen, the message goes to the default channel, or is a dead letter of the list.

    EIP: *Recipient List*.
    """

    def __init__(
        self,
        name: str,
        *recipients: str,
        source: Source | None = None,
        chosen_by: Chooser | None = None,
        default: str | None = None,
    ) -> None:
        """Name the list and its recipients.

        Args:
            name: its durable name within the service.
            recipients: channels; ``audit`` is short for ``queue:audit``.
            source: the channels it takes messages from, or the classes of messages; left out: the queue of its name.
            chosen_by: the field that names the recipients of a message, or a function of the message that does; left
                out: all get it.
            default: the channel for a message for which nobody is chosen.

        Raises:
            ConfigurationError: there are no recipients, one of them is named twice, or a name is not valid.
        """
        super().__init__(name, source=source)
        self._recipients = tuple(address_of(recipient) for recipient in recipients)
        if not recipients:
            raise ConfigurationError(f"{name}: a recipient list needs recipients; name their channels")
        if len(set(self._recipients)) < len(recipients):
            raise ConfigurationError(f"{name}: a recipient is named twice; each gets one copy, so name it once")
        if inspect.iscoroutinefunction(chosen_by):
            raise ConfigurationError(f"{name}: chosen_by= takes a plain function, not an `async def`")
        self._chosen_by: Field | Callable[[RoutedMessage], Iterable[str]] | None = (
            field_at(chosen_by) if isinstance(chosen_by, str) else chosen_by
        )
        self._default = None if default is None else address_of(default)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The recipients, and the default."""
        default = () if self._default is None else (self._default,)
        return tuple(dict.fromkeys([*self._recipients, *default]))

    def decide(self, message: RoutedMessage, /) -> Decision:
        """Choose; recipients come in the order in which the list names them."""
        if chosen := self._chosen(message):
            return Decision(destinations=tuple(one for one in self._recipients if one in chosen))
        if self._default is None:
            raise UnmatchedMessageError(router=self.name)
        return Decision(destinations=(self._default,), by_default=True)

    def rules_for(self, message: RoutedMessage, /) -> tuple[RuleExplanation, ...]:
        """Explain who is chosen."""
        matched: bool | None
        try:
            chosen, why = self._chosen(message), ""
        except ConditionError as error:
            chosen, why = frozenset[str](), error.reason
        return tuple(
            RuleExplanation(
                rule=f"recipient-{place}",
                matched=(matched := None if why else recipient in chosen),
                why=why or self._how(chosen=bool(matched)),
                to=recipient,
                decides=bool(matched),
            )
            for place, recipient in enumerate(self._recipients, start=1)
        )

    def _how(self, *, chosen: bool) -> str:
        if self._chosen_by is None:
            return "everybody gets it"
        by = self._chosen_by.text if isinstance(self._chosen_by, Field) else "the function"
        return f"{by} names it" if chosen else f"{by} does not name it"

    def _chosen(self, message: RoutedMessage) -> frozenset[str]:
        if self._chosen_by is None:
            return frozenset(self._recipients)
        try:
            chosen = frozenset(address_of(one) for one in self._named(message, self._chosen_by))
        except Exception as error:
            raise ConditionError(router=self.name, rule="chosen_by", reason=reason_of(error)) from error
        if unknown := sorted(chosen - set(self._recipients)):
            reason = f"{', '.join(unknown)[:200]} is not among its recipients"
            raise ConditionError(router=self.name, rule="chosen_by", reason=reason)
        return chosen

    def _named(self, message: RoutedMessage, by: Field | Callable[[RoutedMessage], Iterable[str]]) -> Sequence[str]:
        named: object = by.read(message) if isinstance(by, Field) else by(message)
        if named is MISSING or named is None:
            return ()
        if isinstance(named, str):
            return (named,)
        names = [] if isinstance(named, Mapping) else list(cast("Iterable[object]", named))
        if isinstance(named, Mapping) or not all(isinstance(one, str) for one in names):
            raise TypeError("recipients are named by a text, or by several")
        return cast("list[str]", names)
