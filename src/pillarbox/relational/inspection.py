"""Operators' questions in SQL."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import BigInteger, String, bindparam, case, func, literal, or_, select

from pillarbox.channel import is_queue
from pillarbox.control.inspection import HeldKey, InboxCount, Inspection, KnownConsumer
from pillarbox.holding import HoldState
from pillarbox.idempotency.business_key import ROW_PREFIX
from pillarbox.relational.consumers import ATTENDED_BY, IN_SCOPE
from pillarbox.relational.expressions import any_of, micros, now_us, texts
from pillarbox.relational.holding import STOPPED
from pillarbox.relational.idempotency import removable
from pillarbox.relational.tables import consumers, held, holds, inbox, queue, waits
from pillarbox.transaction import Execute, Program

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FOR_EVER = timedelta(days=365_000)

CONSUMERS = select(consumers.c.consumer, consumers.c.channels).order_by(consumers.c.consumer)
QUEUED = select(queue.c.channel, queue.c.consumer, func.count()).group_by(  # index on (channel, consumer, position)
    queue.c.channel, queue.c.consumer
)
HELD = select(held.c.consumer, func.count()).group_by(held.c.consumer)
OLDEST_QUEUED = select(now_us() - queue.c.created_at).order_by(queue.c.position).limit(1)  # primary key
_of_consumer = bindparam("of_consumer", type_=String)
_messages = (  # index on (consumer, hold_key, rank, position)
    select(func.count())
    .where(held.c.consumer == holds.c.consumer, held.c.hold_key == holds.c.hold_key)
    .scalar_subquery()
)
HELD_KEYS = (
    select(holds.c.consumer, holds.c.hold_key, holds.c.state, _messages, holds.c.since, holds.c.due_at)
    .where(or_(_of_consumer.is_(None), holds.c.consumer == _of_consumer))
    .order_by(holds.c.since, holds.c.consumer, holds.c.hold_key)
    .limit(bindparam("up_to", type_=BigInteger))
)
_is_key = func.substr(inbox.c.message_id, 1, len(ROW_PREFIX)) == literal(ROW_PREFIX, String)
WAITS_FOR = select(waits.c.consumer, waits.c.hold_key, waits.c.cause_id).where(
    any_of(waits.c.hold_key, texts("hold_keys"))
)
INBOX = (
    select(
        inbox.c.consumer,
        func.count(),
        func.sum(case((_is_key, 1), else_=0)),
        func.min(inbox.c.processed_at),
        func.sum(case((removable(now_us() - bindparam("age_us", type_=BigInteger)), 1), else_=0)),
    )
    .group_by(inbox.c.consumer)
    .order_by(inbox.c.consumer)
)


NOBODY = ""
"""Whose a queue's messages are while no consumer of that queue is known."""


class RelationalInspection(Inspection):
    """Counts over the tables of the patterns."""

    def consumers(self) -> Program[Sequence[KnownConsumer]]:
        """Count by consumer; what lies in a queue belongs to the consumer that receives from it."""
        known = {consumer: tuple(channels.split()) for consumer, channels in (yield Execute(CONSUMERS))}
        of_queue = {
            channel: consumer for consumer, channels in known.items() for channel in channels if is_queue(channel)
        }
        queued = Counter[str]()
        unheard = dict[str, int]()
        for channel, consumer, count in (yield Execute(QUEUED)):
            whose = of_queue.get(consumer, NOBODY) if is_queue(consumer) else consumer
            queued[whose] += count
            if whose == NOBODY:
                unheard[channel] = count
        stopped = {row[0] for row in (yield Execute(STOPPED, {"by": "", "everyone": 1}))}
        waiting = {row[0]: row[1] for row in (yield Execute(HELD))}
        attended = {row[0].removeprefix(IN_SCOPE): row[1] for row in (yield Execute(ATTENDED_BY, {"prefix": IN_SCOPE}))}
        if unheard:
            known[NOBODY] = tuple(sorted(unheard))
        return [
            KnownConsumer(
                identity=identity,
                channels=known.get(identity, ()),
                queued=queued[identity],
                held=waiting.get(identity, 0),
                stopped=identity in stopped,
                processes=attended.get(identity, 0),
            )
            for identity in sorted({*known, *queued, *waiting})
        ]

    def oldest_queued_for(self) -> Program[timedelta | None]:
        """Look at the row with the lowest position."""
        rows = yield Execute(OLDEST_QUEUED)
        return timedelta(microseconds=max(int(rows[0][0]), 0)) if rows else None

    def held_keys(self, consumer: str | None, *, limit: int) -> Program[Sequence[HeldKey]]:
        """Select the holds, each with the count of its messages."""
        rows = yield Execute(HELD_KEYS, {"of_consumer": consumer, "up_to": limit})
        causes: dict[tuple[str, str], list[str]] = defaultdict(list)
        keys = sorted({row[1] for row in rows})
        for whose, hold_key, cause_id in (yield Execute(WAITS_FOR, {"hold_keys": keys})) if keys else ():
            causes[whose, hold_key].append(cause_id)
        return [
            HeldKey(
                consumer=whose,
                hold_key=hold_key,
                state=HoldState(state),
                messages=messages,
                since=_instant(since),
                due_at=_instant(due_at),
                waits_for=tuple(sorted(causes[whose, hold_key])),
            )
            for whose, hold_key, state, messages, since, due_at in rows
        ]

    def inbox(self, older_than: timedelta | None) -> Program[Sequence[InboxCount]]:
        """Group the inbox by consumer."""
        rows = yield Execute(INBOX, {"age_us": micros(FOR_EVER if older_than is None else older_than)})
        return [
            InboxCount(
                consumer=consumer,
                ids=rows_in_all - int(keys),
                business_keys=int(keys),
                oldest_at=_instant(oldest),
                removable=int(removable),
            )
            for consumer, rows_in_all, keys, oldest, removable in rows
        ]


def _instant(micros_since_1970: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros_since_1970)
