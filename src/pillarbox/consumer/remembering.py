"""By what a consumer knows a message again, and whether its inbox remembers for long enough."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from pillarbox.errors import ConfigurationError, MissingBusinessKeyError, RetentionTooShortError
from pillarbox.idempotency import InboxSettings
from pillarbox.idempotency.business_key import row_of
from pillarbox.message import Message
from pillarbox.message.models import field_names

if TYPE_CHECKING:
    from pillarbox.consumer.spec import Consumer, Declaration

Marks: TypeAlias = tuple[str, ...]
"""The inbox rows that stand for a message: its id, then its business key where the consumer has one."""


@dataclass(slots=True)
class Memory:
    """What one run writes into the inbox: which messages are new, and which rows must be taken back.

    Attributes:
        recorded: the rows that this run has written.
        met: the ids whose turn has come.
        kept: the rows that stand for messages which are done.
    """

    recorded: Collection[str]
    met: set[str] = field(default_factory=set[str])
    kept: set[str] = field(default_factory=set[str])

    def is_new(self, marks: Marks) -> bool:
        """Tell whether nothing that ``marks`` stand for has been processed, before or by this run."""
        for mark in marks:
            if mark not in self.recorded or mark in self.kept:
                return False
        return marks[0] not in self.met

    def meet(self, marks: Marks) -> None:
        """Note that it is the message's turn, if it has ``marks``; a second copy in the same run is a duplicate."""
        self.met.update(marks[:1])

    def suppress(self, marks: Marks) -> None:
        """Note that the message was processed, unless it is a copy of one that this run may have put aside."""
        if marks[0] not in self.met:
            self.kept.update(marks)

    def keep(self, marks: Marks) -> None:
        """Note that the message is done."""
        self.kept.update(marks)

    def lose(self, marks: Iterable[str]) -> None:
        """Note that messages which were to be done are not, after all."""
        self.kept.difference_update(marks)

    @property
    def needless(self) -> list[str]:
        """The rows of messages that were not handled after all."""
        return sorted(mark for mark in self.recorded if mark not in self.kept)


class BusinessKeys:
    """Finds the business keys of one consumer's messages."""

    def __init__(
        self,
        consumer: str,
        dedupe_by: str | Callable[[Any], object],
        decode: Callable[[Message], object],
    ) -> None:
        """Read them from payloads, by a field's name or by a function."""
        self._consumer = consumer
        self._by = dedupe_by
        self._decode = decode

    def row_of(self, message: Message) -> str:
        """Return the inbox row that stands for the key of ``message``.

        Raises:
            DecodeError, UnknownMessageTypeError: the message cannot be read.
            MissingBusinessKeyError: it has no key, or none that could be compared.
        """
        payload = self._decode(message)
        try:
            value: object = getattr(payload, self._by) if isinstance(self._by, str) else self._by(payload)
        except (Exception, CancelledError) as error:  # the function is the user's, and awaits nothing
            raise self._missing(f"finding it raised {type(error).__name__}") from error
        try:
            return row_of(message.type, value)
        except ValueError as error:
            raise self._missing(str(error)) from error

    def _missing(self, reason: str) -> MissingBusinessKeyError:
        what = f"{self._by!r}: " if isinstance(self._by, str) else ""
        return MissingBusinessKeyError(consumer=self._consumer, reason=what + reason)


def check_dedupe_by(declaration: Declaration, where: str) -> None:
    """Refuse a ``dedupe_by`` that cannot be found in every message type, or has no inbox to be kept in.

    Raises:
        ConfigurationError: so it is.
    """
    by = declaration.options.dedupe_by
    if by is None:
        return
    if declaration.options.idempotency == "natural":
        raise ConfigurationError(f"{where}: dedupe_by= needs an inbox; leave out idempotency='natural'")
    if not isinstance(by, str):
        return
    for kind in declaration.types:
        fields = field_names(kind)
        if by not in fields and not isinstance(getattr(kind, by, None), property):
            raise ConfigurationError(
                f"{where}: dedupe_by={by!r} is no field of {kind.__qualname__}; it has: {', '.join(fields) or 'none'}"
            )


def retention_problems(consumer: Consumer, settings: InboxSettings) -> list[ConfigurationError]:
    """Tell whether ids are forgotten before a message can have come for the last time: held, retried, replayed."""
    retries = consumer.options.retry.longest_span
    if settings.keep is None or not consumer.deduplicates or settings.keep - settings.replay_within >= retries:
        return []
    return [
        RetentionTooShortError(
            consumer=consumer.identity, keep=settings.keep, retries=retries, replay_within=settings.replay_within
        )
    ]


def shortest_retention(consumers: Collection[Consumer], settings: InboxSettings) -> timedelta:
    """Return for how long the inboxes of ``consumers`` must keep ids; what is younger is never removed."""
    spans = [consumer.options.retry.longest_span for consumer in consumers if consumer.deduplicates]
    try:
        return max(spans, default=timedelta(0)) + settings.replay_within
    except OverflowError:
        return timedelta.max
