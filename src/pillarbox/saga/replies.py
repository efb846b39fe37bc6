"""Replies: a consumer of the service's own queue writes them into the journals of the sagas that wait for them.

It decides nothing: what a reply means is found out by the orchestrator, under the same lock as every timeout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox.consumer import Context, Handlers
from pillarbox.errors import DecodeError, TransientError
from pillarbox.message import Message, message_type_of
from pillarbox.message.return_address import ReturnAddress, reply_token_of
from pillarbox.outbox import OutboxRecord, PublishOptions
from pillarbox.retry import Retry
from pillarbox.saga.catalogue import Catalogue
from pillarbox.saga.happening import Cancelled, Moment
from pillarbox.saga.journal import Arrived, Journal, Parent, SagaStatus, decode_journal, encode_journal, steps_under_way
from pillarbox.saga.machine import observe
from pillarbox.saga.rules import Rules
from pillarbox.saga.shape import UNSHAPED
from pillarbox.saga.starting import ChildEnded, UndoChild
from pillarbox.saga.store import ChangedSaga, SagaKey, SagaRow, SagaStore
from pillarbox.saga.token import Awaited, is_genuine, read_token
from pillarbox.transaction import Program, adopt

REPLIES_AT_ONCE = 200
CONSUMER = "saga-replies"
NO_CHILD = "it is no child of this saga, and stays as it is"
NOT_KEPT = ChildEnded(
    status=SagaStatus.COMPLETED.value, reason="it ended so long ago that it is not kept any more; undo it by hand"
)


class Replies:
    """What the queue of replies is handled with."""

    def __init__(self, catalogue: Catalogue, rules: Rules, store: SagaStore) -> None:
        """Write into the journals in ``store``."""
        self._catalogue = catalogue
        self._rules = rules
        self._store = store

    def handlers(self) -> Handlers:
        """Return the consumer of the queue, to be included in the box."""
        kinds: dict[str, type[object]] = {message_type_of(kind).name: kind for kind in (ChildEnded, UndoChild)}
        for definition in self._catalogue.definitions:
            for stage in definition.stages:
                for step in stage:
                    for act in (step.do, step.undo):
                        kinds |= {} if act is None else act.replies
        handlers = Handlers()
        declare: Any = handlers.on  # of as many types as there are
        declare(
            *kinds.values(),
            name=CONSUMER,
            channel=self._rules.replies,
            batch=REPLIES_AT_ONCE,
            retry=Retry(attempts=8),
            when_dead="skip",
        )(self.receive)
        return handlers

    async def receive(self, replies: list[Any], contexts: list[Context], tx: AsyncConnection) -> None:
        """Write ``replies`` into the journals of their sagas, and have those looked at.

        One of a type that is not known here comes as a message: another release runs the saga that awaits it.

        Raises:
            DecodeError: one carries no token, or one that its saga never gave away.
            TransientError: there is no such saga, or not yet, or a newer release has written what is kept of it; it
                becomes a dead letter if that stays so.
        """
        await adopt(tx).run(self._receive(list(zip(replies, contexts, strict=True))))

    def _receive(self, replies: Sequence[tuple[object, Context]]) -> Program[None]:
        tokens = [_token_of(payload, context) for payload, context in replies]
        askers = {read_token(one.token)[0].key for one, _ in replies if isinstance(one, UndoChild)}
        rows = yield from self._store.lock(askers.union(key for key, _, _ in tokens))
        met = {row.key: (row, _journal_of(row)) for row in rows}
        records: list[OutboxRecord] = []
        for (payload, _), (key, awaited, signature) in zip(replies, tokens, strict=True):
            if isinstance(payload, UndoChild):
                _check_asker(payload, met)
            if key not in met:
                if isinstance(payload, UndoChild):  # it was there before its parent asked
                    records.append(self._told_parent(payload, NOT_KEPT))
                    continue
                raise TransientError(f"a reply has come for saga {key.saga_id!r} of {key.saga}, which is not there")
            row, journal = met[key]
            if isinstance(payload, UndoChild):
                journal, ended = wished(journal, payload, Moment(now_us=row.now_us))
                if ended is not None:
                    records.append(self._told_parent(payload, ended))
            elif awaited is None or not is_genuine(awaited, signature, journal.secret):
                raise DecodeError(reason="its token was not given away by the saga that it names")
            else:
                journal = replace(journal, arrived=(*journal.arrived, self._arrived(payload, awaited)))
            met[key] = row, journal
        told = {key for key, _, _ in tokens}
        yield from self._store.save([looked_at(row, journal) for key, (row, journal) in met.items() if key in told])
        if records:
            yield from self._rules.outbox.append(records)

    def _told_parent(self, wish: UndoChild, ended: ChildEnded) -> OutboxRecord:
        there = ReturnAddress(to=wish.to, key=wish.key, types=(), token=wish.token)
        return self._rules.outbox.prepare(ended, options=PublishOptions(answers=there))

    def _arrived(self, payload: object, awaited: Awaited) -> Arrived:
        states = self._rules.states
        if isinstance(payload, Message):
            kind, version, body = payload.type, payload.version, states.unread(payload)
        else:
            declared = message_type_of(type(payload))
            kind, version, body = declared.name, declared.version, states.text_of(payload)
        return Arrived(
            step=awaited.step,
            direction=awaited.direction,
            attempt=awaited.attempt,
            round=awaited.round,
            type=kind,
            version=version,
            content_type=states.content_type,
            body=body,
        )


def wished(journal: Journal, wish: UndoChild, moment: Moment) -> tuple[Journal, ChildEnded | None]:
    """Note in a child's journal that it is to be undone, which needs no definition; its parent is told when it is.

    Returns:
        The journal, and what to tell at once: of one that is undone already, that stays, or is not the asker's.

    Raises:
        DecodeError: the wish comes from no saga.
    """
    if not _is_parent(wish.token, journal.parent):
        return journal, ChildEnded(status=SagaStatus.COMPLETED.value, reason=NO_CHILD)
    has_completed = journal.status is SagaStatus.COMPLETED
    stays = has_completed and journal.beyond and not wish.forced
    journal = replace(journal, parent=Parent(to=wish.to, key=wish.key, token=wish.token))
    if stays:
        return journal, ChildEnded(status=journal.status.value, reason="it is past its pivot")
    if journal.status is SagaStatus.COMPENSATED:
        return journal, ChildEnded(status=journal.status.value)
    cancelled = Cancelled(reason="its parent is undone", forced=wish.forced or has_completed)
    return observe(UNSHAPED, journal, cancelled, moment), None


def _journal_of(row: SagaRow) -> Journal:
    """Return what is kept of a saga.

    Raises:
        TransientError: this release cannot read it; another one may.
    """
    try:
        return decode_journal(row.journal)
    except DecodeError as error:
        saga, saga_id = row.key
        raise TransientError(f"what has come for saga {saga_id!r} of {saga} cannot be noted here: {error}") from error


def _check_asker(wish: UndoChild, met: Mapping[SagaKey, tuple[SagaRow, Journal]]) -> None:
    """See to it that the saga which ``wish`` names has made it.

    Raises:
        DecodeError: somebody else has.
    """
    asker, signature = read_token(wish.token)
    if asker.key not in met or not is_genuine(asker, signature, met[asker.key][1].secret):
        raise DecodeError(reason="the wish that a child be undone was not made by the saga that it names")


def _is_parent(token: str, parent: Parent | None) -> bool:
    """Tell whether ``token`` is of the step that started the child of ``parent``."""
    asker, _ = read_token(token)
    if parent is None:
        return False
    starter, _ = read_token(parent.token)
    return asker.request == starter.request


def _token_of(payload: object, context: Context) -> tuple[SagaKey, Awaited | None, bytes]:
    if isinstance(payload, UndoChild):
        return SagaKey(payload.saga, payload.saga_id), None, b""
    token = reply_token_of(context.headers)
    if token is None:
        raise DecodeError(reason="it carries no token; a reply is what a handler of the command returns")
    awaited, signature = read_token(token)
    return awaited.key, awaited, signature


def looked_at(row: SagaRow, journal: Journal) -> ChangedSaga:
    """Return ``row`` with another journal, to be looked at."""
    return ChangedSaga(
        key=row.key,
        version=row.version,
        status=journal.status,
        steps=steps_under_way(journal),
        state=row.state,
        journal=encode_journal(journal).decode(),
        due_us=row.now_us,
    )
