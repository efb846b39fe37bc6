"""Lines of numbers in SQL: positions, what waits early, and what was skipped."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    String,
    Table,
    Text,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    null,
    select,
    text,
    update,
)

from pillarbox.consumer.positions import EarlyMessage, Positions
from pillarbox.holding import HeldState, HoldState
from pillarbox.message import Number
from pillarbox.ordering.sequence import Position, count_released
from pillarbox.outbox.record import Line
from pillarbox.relational.expressions import any_of, insert_into, now_us, rows_of, texts
from pillarbox.relational.holding import RANKS, history_json
from pillarbox.relational.rows import MESSAGE_COLUMNS, columns, message_values
from pillarbox.relational.tables import early, held, holds, key_positions
from pillarbox.transaction import Execute, Program, Row

BY = bindparam("by", type_=String)
IDS = texts("ids")
_channels, _keys = texts("channels"), texts("keys")


def of_lines(table: Table) -> ColumnElement[bool]:
    """Return the condition that a row belongs to one of the lines given, or to one beside them."""
    return and_(table.c.consumer == BY, any_of(table.c.channel, _channels), any_of(table.c.message_key, _keys))


_of_line = and_(
    early.c.consumer == key_positions.c.consumer,
    early.c.channel == key_positions.c.channel,
    early.c.message_key == key_positions.c.message_key,
)
_line = (key_positions.c.channel, key_positions.c.message_key)
LOCK = (  # primary key
    select(*_line, *columns(key_positions, ("epoch", "last", "admitted", "buffered")))
    .where(of_lines(key_positions))
    .order_by(*_line)
    .with_for_update()
)
_new = rows_of(
    "lines", channel=Text(), message_key=Text(), epoch=BigInteger(), last=BigInteger(), admitted=BigInteger()
)
_written = insert_into(key_positions).from_select(
    ["consumer", "channel", "message_key", "epoch", "last", "admitted", "buffered", "moved_at", "told_at"],
    select(
        BY, _new.c.channel, _new.c.message_key, _new.c.epoch, _new.c.last, _new.c.admitted, literal(0), now_us(), null()
    ).where(text("true")),
)
BEGIN = _written.on_conflict_do_nothing()  # primary key; whoever begins the same line is waited for
MOVE = _written.on_conflict_do_update(  # primary key
    index_elements=["consumer", "channel", "message_key"],
    set_={name: _written.excluded[name] for name in ("epoch", "last", "admitted", "moved_at", "told_at")},
)
PUT_EARLY = (
    insert_into(early)
    .values(
        consumer=BY,
        **{name: bindparam(name, type_=early.c[name].type) for name in ("hold_key", *MESSAGE_COLUMNS)},
        epoch=bindparam("of_epoch", type_=BigInteger),
        number=bindparam("with_number", type_=BigInteger),
        attempts=bindparam("tried", type_=Integer),
        history=bindparam("failures", type_=Text),
        since=now_us(),
    )
    .on_conflict_do_nothing(index_elements=["consumer", "message_id"])
)
_lowest = early.alias("lowest")
_first_epoch = (
    select(func.min(_lowest.c.epoch))
    .where(
        _lowest.c.consumer == key_positions.c.consumer,
        _lowest.c.channel == key_positions.c.channel,
        _lowest.c.message_key == key_positions.c.message_key,
    )
    .scalar_subquery()
)
_first_number = select(func.min(early.c.number)).where(_of_line, early.c.epoch == _first_epoch).scalar_subquery()
FIRST_EARLY = (  # index on (consumer, channel, message_key, epoch, number): its first entry for each line
    select(*_line, _first_epoch, _first_number).where(of_lines(key_positions), exists().where(_of_line))
)
_named_line = rows_of("named", channel=Text(), message_key=Text())
RECOUNT = (  # primary key; of these lines alone, which the transaction has locked
    update(key_positions)
    .where(
        of_lines(key_positions),
        exists().where(
            _named_line.c.channel == key_positions.c.channel, _named_line.c.message_key == key_positions.c.message_key
        ),
    )
    .values(buffered=select(func.count()).where(_of_line).scalar_subquery())
)
_placed = (
    select(
        *columns(early, ("channel", "message_key", "epoch", "number", "message_id", "hold_key", "position")),
        func.row_number()
        .over(
            partition_by=(early.c.channel, early.c.message_key),
            order_by=(early.c.epoch, early.c.number, early.c.position),
        )
        .label("place"),
    )
    .where(of_lines(early))
    .subquery("placed")
)
CANDIDATES = (
    select(_placed)
    .where(_placed.c.place <= bindparam("up_to", type_=BigInteger))
    .order_by(_placed.c.channel, _placed.c.message_key, _placed.c.place)
)
_join = insert_into(holds).values(
    consumer=BY,
    hold_key=bindparam("held_key", type_=String),
    state=HoldState.WAITING.value,
    due_at=now_us(),
    lease_until=0,
    since=now_us(),
)
JOIN_HOLD = _join.on_conflict_do_update(  # one that is there keeps its state, and does not end before we are through
    index_elements=["consumer", "hold_key"],
    set_={"due_at": case((holds.c.due_at > _join.excluded.due_at, _join.excluded.due_at), else_=holds.c.due_at)},
)
_moved = ("hold_key", *MESSAGE_COLUMNS, "attempts", "history")
GO_ON = (
    insert_into(held)
    .from_select(
        ["consumer", *_moved, "state", "rank", "due_at"],
        select(
            early.c.consumer,
            *columns(early, _moved),
            bindparam("new_state", type_=String),
            bindparam("new_rank", type_=BigInteger),
            now_us(),
        )
        .where(early.c.consumer == BY, any_of(early.c.message_id, IDS))
        .order_by(early.c.channel, early.c.message_key, early.c.epoch, early.c.number, early.c.position),
    )
    .on_conflict_do_nothing(index_elements=["consumer", "message_id"])
)
LEAVE = delete(early).where(early.c.consumer == BY, any_of(early.c.message_id, IDS))


class RelationalPositions(Positions):
    """Positions and early messages as rows."""

    def lock(self, consumer: str, lines: Mapping[Line, int]) -> Program[Mapping[Line, Position]]:
        """Select for update; what is new is inserted first, unless somebody else does, and then selected."""
        found = yield from self._locked(consumer, lines)
        new = {line: Position(epoch=epoch) for line, epoch in lines.items() if line not in found}
        if new:
            yield Execute(BEGIN, {"by": consumer, "lines": _rows(new)})
            found = {**found, **(yield from self._locked(consumer, new))}
        return {line: found[line] for line in lines}

    def lock_known(self, consumer: str, line: Line) -> Program[Position | None]:
        """Select for update."""
        return (yield from self._locked(consumer, [line])).get(line)

    def _locked(self, consumer: str, lines: Collection[Line]) -> Program[dict[Line, Position]]:
        rows = yield Execute(LOCK, among(consumer, lines))
        return {_line_in(row): Position(epoch=row[2], last=row[3], admitted=row[4], buffered=row[5]) for row in rows}

    def move(self, consumer: str, positions: Mapping[Line, Position]) -> Program[None]:
        """Write all of them in one statement."""
        yield Execute(MOVE, {"by": consumer, "lines": _rows(positions)})

    def put_early(self, consumer: str, messages: Sequence[EarlyMessage]) -> Program[None]:
        """Insert what is not there."""
        rows = [
            {
                **message_values(one.message),
                "by": consumer,
                "hold_key": one.hold_key,
                "of_epoch": one.number.epoch,
                "with_number": one.number.number,
                "tried": one.attempts,
                "failures": history_json(one.history),
            }
            for one in messages
        ]
        if rows:
            yield Execute(PUT_EARLY, rows)
            yield Execute(RECOUNT, _named(consumer, {_line_of(one) for one in messages}))

    def first_early(self, consumer: str, lines: Collection[Line]) -> Program[Mapping[Line, Number]]:
        """Look at the first entry of each line in the index."""
        if not lines:
            return {}
        rows = yield Execute(FIRST_EARLY, among(consumer, lines))
        return {_line_in(row): Number(row[2], row[3]) for row in rows if _line_in(row) in lines}

    def release(self, consumer: str, positions: Mapping[Line, Position], *, limit: int) -> Program[int]:
        """Choose, hold the keys, copy, delete."""
        rows = yield Execute(CANDIDATES, {**among(consumer, positions), "up_to": limit})
        waiting: dict[Line, list[Row]] = {}
        for row in rows:
            waiting.setdefault(_line_in(row), []).append(row)
        going: list[Row] = []
        for line, position in positions.items():
            candidates = waiting.get(line, [])
            numbers = [Number(row[2], row[3]) for row in candidates]
            going += candidates[: count_released(position, numbers)]
        if not going:
            return 0
        for hold_key in sorted({row[5] for row in going}):
            yield Execute(JOIN_HOLD, {"by": consumer, "held_key": hold_key})
        ids = {"by": consumer, "ids": [row[4] for row in going]}
        behind = {"new_state": HeldState.HELD.value, "new_rank": RANKS[HeldState.HELD]}
        yield Execute(GO_ON, {**ids, **behind})
        yield Execute(LEAVE, ids)
        yield Execute(RECOUNT, _named(consumer, {_line_in(row) for row in going}))
        return len(going)


def among(consumer: str, lines: Collection[Line]) -> dict[str, object]:
    """Return the parameters of ``of_lines``."""
    channels, keys = (sorted({line[part] for line in lines}) for part in (0, 1))
    return {"by": consumer, "channels": channels, "keys": keys}


def _named(consumer: str, lines: Collection[Line]) -> dict[str, object]:
    """Return the parameters of ``of_lines``, and the lines themselves."""
    named = [{"channel": channel, "message_key": key} for channel, key in sorted(lines)]
    return {**among(consumer, lines), "named": named}


def _line_of(early: EarlyMessage) -> Line:
    return early.message.destination, early.message.key or ""


def _line_in(row: Row) -> Line:
    return row[0], row[1]


def _rows(positions: Mapping[Line, Position]) -> list[dict[str, object]]:
    return [
        {
            "channel": line[0],
            "message_key": line[1],
            "epoch": position.epoch,
            "last": position.last,
            "admitted": position.admitted,
        }
        for line, position in sorted(positions.items())
    ]
