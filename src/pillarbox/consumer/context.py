"""What a handler can know about its message, and how it publishes."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from pillarbox.errors import ConfigurationError
from pillarbox.idempotency.outside_calls import OutsideCalls
from pillarbox.message import Cause, Message, message_type_of
from pillarbox.message.return_address import return_address_of
from pillarbox.observe import Event
from pillarbox.outbox import DEFAULT_OPTIONS, Origin, Outbox, OutboxRecord, PublishOptions, record_of


@dataclass(frozen=True, slots=True)
class Noted:
    """What ``Context.publish`` returns: it may be awaited, and need not be.

    Attributes:
        cause: what will be published, for the ``after=`` of what comes behind it.
    """

    cause: Cause

    def __await__(self) -> Generator[None, None, Cause]:
        """Return the cause."""
        yield from ()
        return self.cause


class Context:
    """A message's envelope, and the outbox of the transaction that its handling is part of."""

    __slots__ = ("_calls", "_consumer", "_message", "_notices", "_outbox", "_records", "attempt")

    def __init__(
        self, message: Message, *, consumer: str, attempt: int, outbox: Outbox, calls: OutsideCalls | None = None
    ) -> None:
        """Publish through ``outbox`` when the handling commits; ``calls`` where no transaction is open meanwhile."""
        self._message = message
        self._consumer = consumer
        self._outbox = outbox
        self._calls = calls
        self._records: list[OutboxRecord] = []
        self._notices: list[Event] = []
        self.attempt = attempt
        """Which attempt this is, counted from 1."""

    @property
    def message_id(self) -> str:
        """The id of the message; a redelivery has the same."""
        return self._message.id

    @property
    def type(self) -> str:
        """The logical name of the message's type."""
        return self._message.type

    @property
    def key(self) -> str | None:
        """The key whose order the message is part of."""
        return self._message.key

    @property
    def channel(self) -> str:
        """The address the message was sent to, such as ``topic:order``."""
        return self._message.destination

    @property
    def headers(self) -> Mapping[str, str]:
        """All headers of the message."""
        return self._message.headers

    @property
    def correlation_id(self) -> str:
        """The id that every message of one process shares."""
        return self._message.correlation_id or self._message.id

    @property
    def causation_id(self) -> str | None:
        """The id of the message whose handling published this one."""
        return self._message.causation_id

    @property
    def calls(self) -> OutsideCalls:
        """The calls to the outside, for ``call_once``.

        Raises:
            ConfigurationError: the handler has a transaction, which would be held open for as long as the call takes.
        """
        if self._calls is None:
            raise ConfigurationError(
                f"{self._consumer}: call_once needs a handler that asks for no transaction; let this one send a "
                "command to such a handler, or take what it answered from the event that it returns"
            )
        return self._calls

    @property
    def cause(self) -> Cause:
        """The message as a cause of others, for their ``after=``."""
        return cause_of(self._message)

    @property
    def records(self) -> tuple[OutboxRecord, ...]:
        """What the handler has published so far."""
        return tuple(self._records)

    @property
    def notices(self) -> tuple[Event, ...]:
        """What is to be told of when the handling is durable."""
        return tuple(self._notices)

    def idempotency_key(self, name: str = "") -> str:
        """Return a key for a call to the outside: the same at every attempt, redelivery and replay of the message.

        Args:
            name: tells several calls of one handler apart.
        """
        return f"{self._consumer}:{self._message.id}" + (f":{name}" if name else "")

    def publish(
        self,
        event: object,
        /,
        *,
        key: str | None = None,
        delay: timedelta | None = None,
        headers: Mapping[str, str] | None = None,
        after: After = (),
    ) -> Noted:
        """Publish an event when this handling commits; if it does not commit, nothing is published.

        It may be awaited, but need not be, so that it serves plain functions too. The message that is handled is a
        cause of the event; ``after`` names further ones, for consumers that keep the order of causes.

        Raises:
            InvalidMessageError: the event cannot be published as it is.
        """
        options = PublishOptions(key=key, delay=delay, headers=headers or {}, after=causes_in(after))
        return self._note(event, "event", options)

    def send(
        self,
        command: object,
        /,
        *,
        key: str | None = None,
        delay: timedelta | None = None,
        headers: Mapping[str, str] | None = None,
        after: After = (),
    ) -> Noted:
        """Send a command when this handling commits; the rest is as with ``publish``."""
        options = PublishOptions(key=key, delay=delay, headers=headers or {}, after=causes_in(after))
        return self._note(command, "command", options)

    def note(self, payload: object) -> None:
        """Publish or send what a handler returned, as its type says; the awaited answer goes to who awaits it."""
        address = return_address_of(self._message)
        options = DEFAULT_OPTIONS
        if address is not None and message_type_of(type(payload)).name in address.types:
            options = PublishOptions(answers=address)
        self._records.append(self._outbox.prepare(payload, options=options, origin=self._origin()))

    def forward(self, copies: Sequence[Message], *, notice: Event) -> None:
        """Publish ``copies`` as they are when this handling commits, and tell of it by ``notice``."""
        self._records += [record_of(copy) for copy in copies]
        self._notices.append(notice)

    def _note(self, payload: object, kind: str, options: PublishOptions) -> Noted:
        declared = message_type_of(type(payload)).kind
        if declared != kind:
            verb = "publish" if declared == "event" else "send"
            raise ConfigurationError(f"{type(payload).__qualname__} is declared as a {declared}; use {verb}() for it")
        record = self._outbox.prepare(payload, options=options, origin=self._origin())
        self._records.append(record)
        return Noted(cause_of(record.message))

    def _origin(self) -> Origin:
        return Origin(
            correlation_id=self.correlation_id,
            causation_id=self._message.id,
            cause=self.cause,
            hop=self._message.hop + 1,
        )


After: TypeAlias = Sequence[Cause | Noted | Context]
"""Messages that come before one that is published."""


def cause_of(message: Message) -> Cause:
    """Return ``message`` as a cause of others."""
    return Cause(id=message.id, type=message.type, destination=message.destination)


def causes_in(after: After) -> Sequence[Cause]:
    """Return the causes that ``after`` names, in whichever way.

    Raises:
        ConfigurationError: it is no sequence, or holds something else.
    """
    try:
        return [one if isinstance(one, Cause) else one.cause for one in after]
    except (TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"after={after!r:.200} is no list of what publish() returned or of contexts; put what comes before into one"
        ) from error
