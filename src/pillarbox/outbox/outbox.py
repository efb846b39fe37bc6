"""The outbox: turns what a caller publishes into records and writes them in the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from msgspec.structs import replace

from pillarbox.errors import InvalidMessageError
from pillarbox.message import Cause, Limits, Message, MessageType, message_type_of
from pillarbox.message.names import check_message_id
from pillarbox.message.return_address import ReturnAddress, answering
from pillarbox.outbox.record import OutboxRecord, record_of
from pillarbox.outbox.store import OutboxStore
from pillarbox.serialization import Codec, encode_message
from pillarbox.transaction import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a message inherits from the one whose handling caused it."""

    correlation_id: str | None = None
    causation_id: str | None = None
    cause: Cause | None = None
    hop: int = 0


NOWHERE = Origin()


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOptions:
    """What a caller may say about one message.

    Attributes:
        key: overrides the key that the message's type declares.
        delay: how long to hold the message back; its place in the key's order is its due time.
        headers: headers of the caller's own.
        after: messages that come before it, besides the one whose handling publishes it.
        awaits: where its answer is awaited.
        answers: what it answers: it goes there, and to nobody else.
    """

    key: str | None = None
    delay: timedelta | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    after: Sequence[Cause] = ()
    awaits: ReturnAddress | None = None
    answers: ReturnAddress | None = None


DEFAULT_OPTIONS = PublishOptions()


class Outbox:
    """The transactional outbox of one service.

    microservices.io: *Transactional outbox*.
    """

    def __init__(
        self,
        *,
        service: str,
        store: OutboxStore,
        codec: Codec,
        limits: Limits,
        new_id: Callable[[], str],
        now: Callable[[], datetime],
    ) -> None:
        """Publish in the name of ``service``."""
        self._service = service
        self._store = store
        self._codec = codec
        self._limits = limits
        self._new_id = new_id
        self._now = now

    def prepare(
        self,
        payload: object,
        *,
        options: PublishOptions = DEFAULT_OPTIONS,
        origin: Origin = NOWHERE,
    ) -> OutboxRecord:
        """Encode ``payload`` and check everything that would make it unpublishable; touches no database.

        Raises:
            InvalidMessageError: it cannot be published as it is; nothing was written.
        """
        kind = message_type_of(type(payload))
        if options.delay is not None:
            _check_delay(options.delay, kind)
        message = self._encode(kind, payload, options, origin)
        numbered = kind.numbered and options.answers is None
        if numbered:
            _check_numbered(message, options)
        return record_of(message, due_in=options.delay or None, numbered=numbered)

    def append(self, records: Sequence[OutboxRecord]) -> Program[None]:
        """Write ``records`` in the caller's transaction."""
        return self._store.append(records)

    def _encode(self, kind: MessageType, payload: object, options: PublishOptions, origin: Origin) -> Message:
        for cause in options.after:  # the handled message may come from elsewhere, and have an id of any kind
            check_message_id(cause.id, message_type=kind.name)
        message = encode_message(
            payload,
            message_type=kind,
            codec=self._codec,
            id=self._new_id(),
            source=self._service,
            time=self._now(),
            key=options.key,
            headers=options.headers,
            correlation_id=origin.correlation_id,
            causation_id=origin.causation_id,
            causes=options.after if origin.cause is None else (origin.cause, *options.after),
            hop=origin.hop,
            limits=self._limits,
        )
        if options.awaits is not None:
            message = replace(message, headers={**message.headers, **options.awaits.headers()})
        if options.answers is not None:
            message = answering(message, options.answers)
        return message


def _check_delay(delay: object, kind: MessageType) -> None:
    if not isinstance(delay, timedelta):
        raise InvalidMessageError(message_type=kind.name, reason=f"delay={delay!r:.200} is no timedelta")
    if delay < timedelta(0):
        raise InvalidMessageError(message_type=kind.name, reason=f"delay={delay} is negative")


def _check_numbered(message: Message, options: PublishOptions) -> None:
    if message.key is None:
        reason = "it is numbered, and numbers are counted by key; declare key=, or give one"
        raise InvalidMessageError(message_type=message.type, reason=reason)
    if options.delay:
        reason = (
            "it is numbered and has a delay: everything of its key that is published meanwhile would wait for it; "
            "leave delay= out, or send what is delayed to a destination without numbers"
        )
        raise InvalidMessageError(message_type=message.type, reason=reason)
