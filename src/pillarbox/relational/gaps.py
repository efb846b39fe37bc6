"""Lines that have stalled, in SQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta

from sqlalchemy import BigInteger, String, Text, and_, bindparam, case, exists, func, or_, select, update

from pillarbox.consumer.positions import Gap, Gaps, GapState, SkippedNumbers, SkippedStore
from pillarbox.message import Number
from pillarbox.ordering.sequence import Position
from pillarbox.outbox.record import Line
from pillarbox.relational.expressions import insert_into, micros, now_us
from pillarbox.relational.rows import columns
from pillarbox.relational.sequences import BY, among, of_lines
from pillarbox.relational.tables import early, holds, key_positions, skipped_numbers
from pillarbox.transaction import Execute, Program, Row

_of_consumer = bindparam("of_consumer", type_=String)
_buffered = (  # index on (consumer, channel, message_key, epoch, number)
    select(
        early.c.consumer,
        early.c.channel,
        early.c.message_key,
        func.max(early.c.hold_key).label("hold_key"),
        func.count().label("messages"),
        func.min(early.c.epoch).label("epoch"),
        func.min(early.c.since).label("since"),
    )
    .where(or_(_of_consumer.is_(None), early.c.consumer == _of_consumer))
    .group_by(early.c.consumer, early.c.channel, early.c.message_key)
    .subquery("buffered")
)
_first = (
    select(func.min(early.c.number))
    .where(
        early.c.consumer == _buffered.c.consumer,
        early.c.channel == _buffered.c.channel,
        early.c.message_key == _buffered.c.message_key,
        early.c.epoch == _buffered.c.epoch,
    )
    .scalar_subquery()
)
_is_held = exists().where(holds.c.consumer == _buffered.c.consumer, holds.c.hold_key == _buffered.c.hold_key)
_same_line = and_(
    key_positions.c.consumer == _buffered.c.consumer,
    key_positions.c.channel == _buffered.c.channel,
    key_positions.c.message_key == _buffered.c.message_key,
)
_stalled_at = case((key_positions.c.moved_at > _buffered.c.since, key_positions.c.moved_at), else_=_buffered.c.since)
_all = (
    select(
        *columns(key_positions, ("consumer", "channel", "message_key", "epoch", "last", "admitted", "told_at")),
        _buffered.c.epoch.label("first_epoch"),
        _first.label("first_number"),
        _buffered.c.messages,
        _stalled_at.label("stalled_at"),
        case((_is_held, 1), else_=0).label("is_held"),
    )
    .join_from(_buffered, key_positions, _same_line)
    .subquery("found")
)
_found = _all.c
_gaps = select(
    _found.consumer,
    _found.channel,
    _found.message_key,
    _found.epoch,
    _found.last,
    _found.admitted,
    _found.first_epoch,
    _found.first_number,
    _found.messages,
    now_us() - _found.stalled_at,
    now_us() - _found.told_at,
    _found.is_held,
)
_limit = bindparam("up_to", type_=BigInteger)
FIND = _gaps.order_by(_found.stalled_at, _found.consumer, _found.channel, _found.message_key).limit(_limit)
_done = case((_found.last > 0, _found.last), else_=0)
_may_go_on = or_(
    _found.first_epoch < _found.epoch,
    and_(_found.first_epoch == _found.epoch, _found.first_number <= _done + 1),
    and_(_found.first_epoch > _found.epoch, _found.first_number == 1, _found.admitted <= _done),
)
_long_ago = now_us() - bindparam("wait_us", type_=BigInteger)
_has_waited = or_(_found.stalled_at <= _long_ago, _found.messages >= bindparam("full_at", type_=BigInteger))
_told_before = func.coalesce(_found.told_at, 0)
DUE = (
    _gaps.where(_found.is_held == 0, or_(_may_go_on, and_(_told_before <= _long_ago, _has_waited)))
    .order_by(_told_before)
    .limit(_limit)
)
_this_line = and_(
    key_positions.c.consumer == _of_consumer,
    key_positions.c.channel == bindparam("of_channel", type_=String),
    key_positions.c.message_key == bindparam("of_key", type_=key_positions.c.message_key.type),
)
LOCK_LINE = select(key_positions.c.channel).where(_this_line).with_for_update(skip_locked=True)  # primary key
LOOK = _gaps.where(
    _found.channel == bindparam("of_channel", type_=String),
    _found.message_key == bindparam("of_key", type_=key_positions.c.message_key.type),
)
TELL = update(key_positions).where(_this_line).values(told_at=now_us())
SKIP = insert_into(skipped_numbers).values(
    consumer=BY,
    channel=bindparam("of_channel", type_=String),
    message_key=bindparam("of_key", type_=skipped_numbers.c.message_key.type),
    epoch=bindparam("of_epoch", type_=BigInteger),
    first=bindparam("first_number", type_=BigInteger),
    last=bindparam("last_number", type_=BigInteger),
    skipped_at=now_us(),
    skipped_by=bindparam("decided_by", type_=String),
    skipped_because=bindparam("because", type_=Text),
)
SKIPPED = select(
    skipped_numbers.c.channel,
    skipped_numbers.c.message_key,
    skipped_numbers.c.epoch,
    skipped_numbers.c.first,
    skipped_numbers.c.last,
    skipped_numbers.c.skipped_by,
    skipped_numbers.c.skipped_because,
).where(of_lines(skipped_numbers))
STATE = (
    select(func.count(), func.sum(_buffered.c.messages), now_us() - func.min(_stalled_at))
    .join_from(_buffered, key_positions, _same_line)
    .where(~_is_held)
)


class RelationalGaps(Gaps):
    """Gaps as positions with early messages beyond them."""

    def find(self, consumer: str | None, *, limit: int) -> Program[Sequence[Gap]]:
        """Group what is early by line."""
        rows = yield Execute(FIND, {"of_consumer": consumer, "up_to": limit})
        return [_gap(row) for row in rows]

    def due(self, consumer: str, *, wait: timedelta, full_at: int, limit: int) -> Program[Sequence[Gap]]:
        """Choose among all lines of the consumer."""
        asked = {"of_consumer": consumer, "wait_us": micros(wait), "full_at": full_at, "up_to": limit}
        return [_gap(row) for row in (yield Execute(DUE, asked))]

    def look(self, consumer: str, line: Line) -> Program[Gap | None]:
        """Lock first, then look: what was seen before the lock may be over."""
        this = {"of_consumer": consumer, "of_channel": line[0], "of_key": line[1]}
        if not (yield Execute(LOCK_LINE, this)):
            return None
        rows = yield Execute(LOOK, this)
        return _gap(rows[0]) if rows else None

    def tell(self, consumer: str, line: Line) -> Program[None]:
        """Write the instant."""
        yield Execute(TELL, {"of_consumer": consumer, "of_channel": line[0], "of_key": line[1]})

    def state(self) -> Program[GapState]:
        """Count lines whose keys are not held."""
        lines, buffered, oldest_us = (yield Execute(STATE, {"of_consumer": None}))[0]
        return GapState(lines=lines, buffered=int(buffered or 0), oldest_for=_age(oldest_us))


class RelationalSkippedStore(SkippedStore):
    """Skipped numbers as rows, one for each range."""

    def skip(self, consumer: str, skipped: Sequence[SkippedNumbers]) -> Program[None]:
        """Insert the ranges."""
        yield Execute(
            SKIP,
            [
                {
                    "by": consumer,
                    "of_channel": one.line[0],
                    "of_key": one.line[1],
                    "of_epoch": one.first.epoch,
                    "first_number": one.first.number,
                    "last_number": one.last,
                    "decided_by": one.by,
                    "because": one.because,
                }
                for one in skipped
            ],
        )

    def skipped(self, consumer: str, lines: Collection[Line]) -> Program[Sequence[SkippedNumbers]]:
        """Select by line."""
        rows = yield Execute(SKIPPED, among(consumer, lines))
        return [
            SkippedNumbers(line=(channel, key), first=Number(epoch, first), last=last, by=by, because=because)
            for channel, key, epoch, first, last, by, because in rows
        ]


def _gap(row: Row) -> Gap:
    consumer, channel, key, epoch, last, admitted, first_epoch, first, messages, stalled_us, told_us, is_held = row
    return Gap(
        consumer=consumer,
        line=(channel, key),
        position=Position(epoch=epoch, last=last, admitted=admitted),
        waiting=Number(first_epoch, first),
        buffered=messages,
        stalled_for=_age(stalled_us) or timedelta(0),
        told_for=_age(told_us),
        held=bool(is_held),
    )


def _age(microseconds: int | None) -> timedelta | None:
    return None if microseconds is None else timedelta(microseconds=max(int(microseconds), 0))
