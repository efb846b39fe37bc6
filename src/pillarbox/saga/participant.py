"""The participant guard: a service that does steps for sagas of others does each at most once, and none after its undo.

A command that was done is answered again when it comes under another id; one whose handler gave no answer is not done
again either. An undo leaves a tombstone behind, so that a
"do" which comes late is refused, whatever its round. A command of a later round than the answer that is kept is done
anew: a saga begins a round only when the one before was refused, so what is kept is a refusal. Do and undo take the
same row's lock, so that they never run side by side where the handler's writes are part of the transaction.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Protocol

import msgspec
from msgspec.structs import replace

from pillarbox.channel import is_queue
from pillarbox.consumer.guard import Guard
from pillarbox.consumer.item import Item
from pillarbox.errors import DecodeError
from pillarbox.message import Message
from pillarbox.message.headers import REPLY_TOKEN
from pillarbox.message.return_address import reply_token_of, return_address_of
from pillarbox.outbox import Outbox, OutboxRecord, record_of
from pillarbox.retry import RetryLater
from pillarbox.saga.journal import Direction
from pillarbox.saga.token import Awaited, read_token
from pillarbox.transaction import Program

SOON = timedelta(milliseconds=20)
"""When a command is looked at again that came together with another one of the same meaning."""
UNANSWERED = "pillarbox.unanswered"
"""The type of what is kept, and never sent, in place of an answer where the handler gave none."""


class Participation(msgspec.Struct, frozen=True, kw_only=True):
    """What a service has done for one step of one saga.

    Attributes:
        undone: an undo has come: nothing is done any more.
        answers: by direction, what was answered; a message as text.
    """

    undone: bool
    answers: Mapping[Direction, str]


class ParticipationStore(Protocol):
    """The port where participations are kept."""

    @abstractmethod
    def enter(self, service: str, requests: Sequence[str]) -> Program[Mapping[str, Participation]]:
        """Lock the rows of ``requests``, made if need be, in sorted order, and return them."""

    @abstractmethod
    def bury(self, service: str, requests: Sequence[str]) -> Program[None]:
        """Note that nothing is to be done for ``requests`` any more."""

    @abstractmethod
    def answered(self, service: str, direction: Direction, answers: Mapping[str, str]) -> Program[None]:
        """Keep what was answered, by request."""

    @abstractmethod
    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Remove up to ``limit`` rows that were last changed longer ago than that; return how many."""


class ParticipantGuard(Guard):
    """Guards the consumers of one service."""

    def __init__(
        self,
        service: str,
        *,
        store: ParticipationStore,
        outbox: Outbox,
        new_id: Callable[[], str],
        lets_go: bool = False,
        passes_on: bool = False,
    ) -> None:
        """Keep what was done in ``store``.

        Args:
            service: whose consumers they are.
            store: where it is kept.
            outbox: what is answered again goes there.
            new_id: makes ids for that.
            lets_go: a dead command lets go of its key, for its undo to pass.
            passes_on: the consumer is a route: what it handles is done elsewhere, maybe by this very service.
        """
        self._service = service
        self._store = store
        self._outbox = outbox
        self._new_id = new_id
        self._lets_go = lets_go
        self._passes_on = passes_on

    def look(self, items: Sequence[Item]) -> Program[None]:
        """Refuse what comes after its undo, and answer again what was done."""
        asked = [(item, awaited) for item in items if (awaited := _asked(item.message)) is not None]
        if not asked:
            return
        requests = sorted({awaited.request for _, awaited in asked})
        known = dict((yield from self._store.enter(self._service, requests)))
        again: list[OutboxRecord] = []
        buried: set[str] = set()
        first: dict[tuple[str, Direction], str] = {}
        for item, awaited in asked:
            item.blocks = item.blocks and not self._lets_go
            participation = known[awaited.request]
            is_buried = participation.undone and awaited.direction is Direction.DO
            answer = None if is_buried else _answer_to(awaited, participation)  # what was undone is not done any more
            item.is_through = is_buried or answer is not None
            if item.is_through:
                again += self._again(answer, item.message)
                continue
            before = first.setdefault((awaited.request, awaited.direction), item.message.id)
            if before != item.message.id and item.verdict is None:  # its answer is not known before this run is over
                item.verdict, item.awaits = RetryLater(SOON), (before,)
            elif awaited.direction is Direction.UNDO:
                known[awaited.request] = replace(participation, undone=True)
                buried.add(awaited.request)
        if buried:
            yield from self._store.bury(self._service, sorted(buried))
        if again:
            yield from self._outbox.append(again)

    def done(self, items: Sequence[Item], records: Sequence[OutboxRecord]) -> Program[None]:
        """Keep the answers among ``records``, and which of ``items`` were done without one."""
        if self._passes_on:
            return
        answers: dict[Direction, dict[str, str]] = {direction: {} for direction in Direction}
        for item in items:
            if item.is_through or not is_queue(item.message.destination):  # what has several consumers, one may answer
                continue
            if (awaited := _asked(item.message)) is not None:
                answers[awaited.direction][awaited.request] = _text_of(_unanswered(item.message))
        for record in records:
            if (awaited := _answered(record.message)) is not None:
                answers[awaited.direction][awaited.request] = _text_of(record.message)
        for direction, given in answers.items():
            if given:
                yield from self._store.answered(self._service, direction, given)

    def _again(self, answer: str | None, command: Message) -> Sequence[OutboxRecord]:
        """Return the answer that was given before, if there was one, for whoever asks now."""
        given, there = None if answer is None else _message_of(answer), return_address_of(command)
        if given is None or given.type == UNANSWERED:
            return ()
        assert there is not None, "a command with a token has a return address"
        headers = {**given.headers, REPLY_TOKEN: there.token}
        return (record_of(replace(given, id=self._new_id(), destination=there.to, key=there.key, headers=headers)),)


def _answer_to(awaited: Awaited, participation: Participation) -> str | None:
    """Return what was answered in this round or a later one; ``None`` if it is to be answered now."""
    answer = participation.answers.get(awaited.direction)
    if answer is None or not awaited.round:
        return answer
    given = _answered(_message_of(answer))
    return None if given is not None and given.round < awaited.round else answer


def _asked(message: Message) -> Awaited | None:
    """Return what ``message`` asks for in the name of a saga; ``None`` if it is no such command."""
    there = return_address_of(message)
    if there is None or not there.types:
        return None
    try:
        return read_token(there.token)[0]
    except DecodeError:
        return None  # a return address of another kind


def _answered(message: Message) -> Awaited | None:
    token = reply_token_of(message.headers)
    if token is None or return_address_of(message) is not None:
        return None
    try:
        return read_token(token)[0]
    except DecodeError:
        return None


def _unanswered(command: Message) -> Message:
    """Return what is kept of ``command`` if its handler gives no answer."""
    headers = {REPLY_TOKEN: command.headers[REPLY_TOKEN]}
    return replace(command, type=UNANSWERED, headers=headers, body=b"")


_text = msgspec.json.Encoder().encode
_message_of = msgspec.json.Decoder(Message).decode


def _text_of(message: Message) -> str:
    return _text(message).decode()
