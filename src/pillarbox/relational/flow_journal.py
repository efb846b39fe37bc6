"""What was seen of flows in SQL, and what consumers made of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Executable, Integer, String, Table, bindparam, delete, literal, null, select, tuple_

from pillarbox.deadletter import DeadLetterState
from pillarbox.flow import FlowJournal, Passage, SeenMessage
from pillarbox.flow.record import TRACKER, Handling, HandlingState, seen
from pillarbox.message.headers import CORRELATION_ID
from pillarbox.relational.expressions import any_of, insert_into, micros, now_us, texts
from pillarbox.relational.flow_tables import flow_messages
from pillarbox.relational.rows import message_of
from pillarbox.relational.tables import LargeBinary, consumers, dead_letters, held, inbox
from pillarbox.transaction import Execute, Program, Row

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_seen = flow_messages.c
_FACTS = (
    "correlation_id",
    "message_id",
    "type",
    "channel",
    "service",
    "causation_id",
    "cause_type",
    "cause_channel",
    "hop",
    "published_at",
    "seen_at",
)
IDS, CONSUMERS = texts("ids"), texts("consumers")
NOTE = (  # primary key
    insert_into(flow_messages)
    .values(
        correlation_id=bindparam("process", type_=String),
        message_id=bindparam("message", type_=String),
        type=bindparam("of_type", type_=String),
        channel=bindparam("on_channel", type_=String),
        service=bindparam("by_service", type_=String),
        causation_id=bindparam("caused_by", type_=String),
        cause_type=bindparam("by_type", type_=String),
        cause_channel=bindparam("by_channel", type_=String),
        hop=bindparam("at_hop", type_=Integer),
        published_at=bindparam("published_us", type_=BigInteger),
        seen_at=now_us(),
    )
    .on_conflict_do_nothing()
)
MESSAGES = (  # primary key
    select(*(_seen[name] for name in _FACTS))
    .where(any_of(_seen.correlation_id, IDS))
    .order_by(_seen.seen_at, _seen.message_id)
)
WHO = select(consumers.c.consumer)
HANDLED = select(inbox.c.consumer, inbox.c.message_id, inbox.c.processed_at).where(  # primary key
    any_of(inbox.c.consumer, CONSUMERS), any_of(inbox.c.message_id, IDS)
)
WAITING = select(held.c.consumer, held.c.message_id, held.c.attempts).where(  # unique (consumer, message_id)
    any_of(held.c.consumer, CONSUMERS), any_of(held.c.message_id, IDS)
)
_letter = dead_letters.c
LETTERS = select(  # unique (consumer, message_id)
    _letter.consumer, _letter.message_id, _letter.state, _letter.attempts, _letter.last_failed_at
).where(any_of(_letter.consumer, CONSUMERS), any_of(_letter.message_id, IDS))


def _envelopes(table: Table) -> tuple[Any, ...]:
    """Return the columns of a message, without its body."""
    names = ("message_id", "type", "channel", "message_key", "content_type", "headers")
    return (*(table.c[name] for name in names), literal(b"", LargeBinary))


_like = bindparam("like", type_=String)
_up_to = bindparam("up_to", type_=BigInteger)
HELD_OF = (  # index (consumer, hold_key, …)
    select(*_envelopes(held), held.c.consumer, held.c.attempts, null())
    .where(any_of(held.c.consumer, CONSUMERS), held.c.headers.like(_like, escape="/"))
    .order_by(held.c.position)
    .limit(_up_to)
)
DEAD_OF = (  # index (consumer, state, position)
    select(*_envelopes(dead_letters), _letter.consumer, _letter.attempts, _letter.last_failed_at)
    .where(
        any_of(_letter.consumer, CONSUMERS),
        _letter.state == DeadLetterState.DEAD.value,
        _letter.headers.like(_like, escape="/"),
    )
    .order_by(_letter.position)
    .limit(_up_to)
)
_seen_until = select(now_us() - bindparam("age_us", type_=BigInteger)).scalar_subquery()  # once, for an index's sake
OLDEST = (  # index on seen_at
    select(_seen.correlation_id, _seen.message_id)
    .where(_seen.seen_at < _seen_until)
    .order_by(_seen.seen_at)
    .limit(_up_to)
    .with_for_update(skip_locked=True)
)
REMOVE = delete(flow_messages).where(
    tuple_(_seen.correlation_id, _seen.message_id).in_(bindparam("pairs", expanding=True))
)


class RelationalFlowJournal(FlowJournal):
    """Messages as rows; what became of them is read where consumers keep it."""

    def note(self, messages: Sequence[SeenMessage]) -> Program[None]:
        """Insert what is not there."""
        rows = [_values(one) for one in messages]
        if rows:
            yield Execute(NOTE, rows)

    def messages(self, correlation_ids: Collection[str]) -> Program[Sequence[SeenMessage]]:
        """Select by correlation id."""
        return [_message(row) for row in (yield Execute(MESSAGES, {"ids": sorted(correlation_ids)}))]

    def handlings(self, message_ids: Collection[str]) -> Program[Sequence[Handling]]:
        """Look into inboxes, holdings and dead letters; of what stands in several places the last step counts."""
        known = [row[0] for row in (yield Execute(WHO)) if not row[0].endswith(f"/{TRACKER}")]
        if not known or not message_ids:
            return []
        which = {"consumers": sorted(known), "ids": sorted(message_ids)}
        found: dict[tuple[str, str], Handling] = {}
        letters = yield Execute(LETTERS, which)
        for consumer, message_id, _, attempts, at in letters:
            found[consumer, message_id] = _handling(consumer, message_id, HandlingState.DEAD, at, attempts)
        for consumer, message_id, attempts in (yield Execute(WAITING, which)):
            found[consumer, message_id] = _handling(consumer, message_id, HandlingState.WAITING, None, attempts)
        for consumer, message_id, at in (yield Execute(HANDLED, which)):
            found[consumer, message_id] = _handling(consumer, message_id, HandlingState.HANDLED, at)
        for consumer, message_id, state, attempts, at in letters:
            if state == DeadLetterState.DISCARDED.value:
                found[consumer, message_id] = _handling(consumer, message_id, HandlingState.DISCARDED, at, attempts)
        return [found[key] for key in sorted(found)]

    def put_aside(
        self, correlation_id: str, consumers: Collection[str], *, limit: int
    ) -> Program[Sequence[tuple[SeenMessage, Handling]]]:
        """Look for the correlation id in the headers of what waits and is dead."""
        which = {"consumers": sorted(consumers), "like": _pattern(correlation_id), "up_to": limit}
        found: list[tuple[SeenMessage, Handling]] = []
        steps: tuple[tuple[Executable, HandlingState], ...] = (
            (HELD_OF, HandlingState.WAITING),
            (DEAD_OF, HandlingState.DEAD),
        )
        for statement, state in steps:
            for *envelope, consumer, attempts, at in (yield Execute(statement, which)):
                message = seen(message_of(envelope))
                if message.correlation_id == correlation_id:
                    found.append((message, _handling(consumer, message.message_id, state, at, attempts)))
        return found

    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Lock the oldest that nobody else is at, then delete them."""
        old = yield Execute(OLDEST, {"age_us": micros(older_than), "up_to": limit})
        if old:
            yield Execute(REMOVE, {"pairs": [tuple(row) for row in old]})
        return len(old)


def _values(message: SeenMessage) -> dict[str, object]:
    cause = message.cause
    return {
        "process": message.correlation_id,
        "message": message.message_id,
        "of_type": message.type,
        "on_channel": message.passage.channel,
        "by_service": message.service,
        "caused_by": message.causation_id,
        "by_type": None if cause is None else cause.type,
        "by_channel": None if cause is None else cause.channel,
        "at_hop": message.hop,
        "published_us": None if message.published_at is None else micros(message.published_at - EPOCH),
    }


def _message(row: Row) -> SeenMessage:
    process, identity, kind, channel, service, caused_by, by_type, by_channel, hop, published_at, seen_at = row
    return SeenMessage(
        correlation_id=process,
        message_id=identity,
        passage=Passage(kind, channel),
        service=service,
        causation_id=caused_by,
        cause=None if by_type is None else Passage(by_type, by_channel),
        hop=hop,
        published_at=_instant(published_at),
        seen_at=_instant(seen_at),
    )


def _handling(consumer: str, message_id: str, state: HandlingState, at: int | None, attempts: int = 0) -> Handling:
    return Handling(consumer=consumer, message_id=message_id, state=state, at=_instant(at), attempts=attempts)


def _pattern(correlation_id: str) -> str:
    """Return what finds the id in headers as they are stored: JSON text."""
    text = msgspec.json.encode({CORRELATION_ID: correlation_id}).decode()[1:-1]
    for special in ("/", "%", "_"):
        text = text.replace(special, f"/{special}")
    return f"%{text}%"


def _instant(micros_since_1970: int | None) -> datetime | None:
    return None if micros_since_1970 is None else EPOCH + timedelta(microseconds=micros_since_1970)
