"""Dead letters in SQL."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Executable,
    Integer,
    String,
    Text,
    bindparam,
    case,
    func,
    literal_column,
    or_,
    select,
    update,
)

from pillarbox.deadletter import Blockers, Burial, DeadLetter, DeadLetterFilter, DeadLetterState, DeadLetterStore
from pillarbox.deadletter.groups import Arrival
from pillarbox.relational.dead_letter_groups import Arrivals, left
from pillarbox.relational.expressions import any_of, characters_in, insert_into, micros, now_us, texts
from pillarbox.relational.holding import history_json, history_of
from pillarbox.relational.rows import MESSAGE_COLUMNS, columns, message_columns, message_of, message_values
from pillarbox.relational.tables import dead_letters
from pillarbox.transaction import Execute, Program, Row, Rows

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FACTS = (
    "position",
    "consumer",
    "hold_key",
    "state",
    "reason",
    "attempts",
    "history",
    "stack",
    "fingerprint",
    "first_failed_at",
    "last_failed_at",
    "replays",
)
_columns = (
    *columns(dead_letters, _FACTS),
    (now_us() - dead_letters.c.last_failed_at).label("dead_for"),
    *message_columns(dead_letters),
)
_first_us = bindparam("first_us", type_=BigInteger)  # by a worker's clock, which may be ahead of the database's

_bury = insert_into(dead_letters).values(
    consumer=bindparam("by", type_=String),
    **{name: bindparam(name, type_=dead_letters.c[name].type) for name in ("hold_key", *MESSAGE_COLUMNS)},
    state=DeadLetterState.DEAD.value,
    reason=bindparam("because", type_=String),
    attempts=bindparam("tried", type_=Integer),
    history=bindparam("failures", type_=Text),
    stack=bindparam("last_stack", type_=Text),
    fingerprint=bindparam("cause", type_=String),
    first_failed_at=case((_first_us > now_us(), now_us()), else_=func.coalesce(_first_us, now_us())),
    last_failed_at=now_us(),
    replays=0,
)
_earlier, _later = dead_letters.c.history, _bury.excluded.history  # texts of JSON arrays
_both = func.substr(_earlier, 1, characters_in(_earlier) - 1).concat(",").concat(func.substr(_later, 2))
BURY = _bury.on_conflict_do_update(
    index_elements=["consumer", "message_id"],
    set_={
        "state": _bury.excluded.state,
        "hold_key": _bury.excluded.hold_key,
        "reason": _bury.excluded.reason,
        "attempts": dead_letters.c.attempts + _bury.excluded.attempts,
        "history": case((_earlier == "[]", _later), (_later == "[]", _earlier), else_=_both),
        "stack": _bury.excluded.stack,
        "fingerprint": _bury.excluded.fingerprint,
        "last_failed_at": _bury.excluded.last_failed_at,
    },
)
RESOLVE = (
    update(dead_letters)
    .where(
        dead_letters.c.consumer == bindparam("by", type_=String),
        any_of(dead_letters.c.message_id, texts("ids")),
        dead_letters.c.state == DeadLetterState.REPLAYING,
    )
    .values(state=DeadLetterState.RESOLVED.value)
)
GET = select(*_columns).where(dead_letters.c.position == bindparam("letter", type_=BigInteger))
MOVE = (
    update(dead_letters)
    .where(
        dead_letters.c.position == bindparam("letter", type_=BigInteger),
        dead_letters.c.state == DeadLetterState.DEAD,
    )
    .values(
        state=bindparam("new_state", type_=String),
        replays=dead_letters.c.replays
        + case((bindparam("new_state", type_=String) == DeadLetterState.REPLAYING.value, 1), else_=0),
    )
    .returning(dead_letters.c.consumer, dead_letters.c.fingerprint)
)
STILL_DEAD = select(dead_letters.c.fingerprint).where(  # unique by (consumer, message_id)
    dead_letters.c.consumer == bindparam("by", type_=String),
    any_of(dead_letters.c.message_id, texts("ids")),
    dead_letters.c.state == DeadLetterState.DEAD,
)
_ANY_STATE = "any state"
_REPLAYING: ColumnElement[str] = literal_column(f"'{DeadLetterState.REPLAYING}'")
_STATES: Mapping[str, ColumnElement[bool]] = {  # spelled out: partial indexes are found by the name of a state only
    **{state: dead_letters.c.state == literal_column(f"'{state}'") for state in DeadLetterState},
    _ANY_STATE: or_(dead_letters.c.state != _REPLAYING, dead_letters.c.state == _REPLAYING),
}
BLOCKING = (  # index on (consumer, hold_key)
    select(*_columns)
    .where(
        dead_letters.c.consumer == bindparam("by", type_=String),
        dead_letters.c.hold_key == bindparam("held_key", type_=String),
        _STATES[DeadLetterState.DEAD],
    )
    .order_by(dead_letters.c.position)
    .with_for_update()
)
OF_MESSAGE = select(*_columns).where(  # unique by (consumer, message_id)
    dead_letters.c.consumer == bindparam("by", type_=String),
    dead_letters.c.message_id == bindparam("of_message", type_=String),
)
STAND_ALONE = (
    update(dead_letters)
    .where(dead_letters.c.position == bindparam("letter", type_=BigInteger))
    .values(hold_key=bindparam("own_key", type_=String))
)


_LIKE = str.maketrans({"%": "/%", "_": "/_", "/": "//"})
_CONDITIONS: Mapping[str, ColumnElement[bool]] = {
    "type": dead_letters.c.type == bindparam("of_type", type_=String),
    "consumer": dead_letters.c.consumer == bindparam("of_consumer", type_=String),
    "group": dead_letters.c.fingerprint == bindparam("of_group", type_=String),
    "key": dead_letters.c.message_key == bindparam("of_key", type_=dead_letters.c.message_key.type),
    "reason": dead_letters.c.reason == bindparam("because", type_=String),
    "since": dead_letters.c.last_failed_at >= bindparam("since_us", type_=BigInteger),
    "until": dead_letters.c.last_failed_at < bindparam("until_us", type_=BigInteger),
    "text": func.lower(dead_letters.c.history).like(func.lower(bindparam("with_text", type_=String)), escape="/"),
}


def conditions(where: DeadLetterFilter) -> tuple[str, ...]:
    """Return the names of what ``where`` asks for; for the indexes' sake each combination is a statement of its own."""
    asked = (name for name in _CONDITIONS if getattr(where, name) is not None)
    return (*asked, where.state or _ANY_STATE)


def matching(asked: tuple[str, ...]) -> list[ColumnElement[bool]]:
    """Return the conditions named; their values are those of ``values_of``."""
    found = {**_CONDITIONS, **_STATES}
    return [found[name] for name in asked]


def values_of(where: DeadLetterFilter) -> dict[str, Any]:
    """Return the values of the conditions of ``where``."""
    found = {
        "of_type": where.type,
        "of_consumer": where.consumer,
        "of_group": where.group,
        "of_key": where.key,
        "because": where.reason,
        "since_us": None if where.since is None else micros(where.since - EPOCH),
        "until_us": None if where.until is None else micros(where.until - EPOCH),
        "with_text": None if where.text is None else f"%{_as_json(where.text).translate(_LIKE)}%",
    }
    return {name: value for name, value in found.items() if value is not None}


@lru_cache(maxsize=128)
def find_statement(asked: tuple[str, ...]) -> Executable:
    """Return the statement that finds a page."""
    found: Executable = (
        select(*_columns)
        .where(*matching(asked), dead_letters.c.position > bindparam("after", type_=BigInteger))
        .order_by(dead_letters.c.position)
        .limit(bindparam("up_to", type_=BigInteger))
    )
    return found


@lru_cache(maxsize=128)
def count_statement(asked: tuple[str, ...]) -> Executable:
    """Return the statement that counts."""
    return select(func.count()).select_from(dead_letters).where(*matching(asked))


def _as_json(text: str) -> str:
    """Return ``text`` as it stands in a history; what cannot stand in one as a line feed, which does not either."""
    try:
        return msgspec.json.encode(text).decode()[1:-1]
    except UnicodeEncodeError:
        return "\n"


def _instant(micros_since_1970: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros_since_1970)


def _letter(row: Row) -> DeadLetter:
    facts = dict(zip(_FACTS, row, strict=False))
    history = history_of(facts["history"])
    return DeadLetter(
        id=facts["position"],
        consumer=facts["consumer"],
        hold_key=facts["hold_key"],
        message=message_of(row[len(_FACTS) + 1 :]),
        state=DeadLetterState(facts["state"]),
        reason=facts["reason"],
        attempts=facts["attempts"],
        error_type=history[-1].error_type if history else "",
        error=history[-1].error if history else "",
        history=history,
        stack=facts["stack"],
        fingerprint=facts["fingerprint"],
        first_failed_at=_instant(facts["first_failed_at"]),
        last_failed_at=_instant(facts["last_failed_at"]),
        replays=facts["replays"],
        dead_for=timedelta(microseconds=max(row[len(_FACTS)], 0)),
    )


class RelationalDeadLetterStore(DeadLetterStore, Blockers):
    """Dead letters as rows, unique by consumer and message; each in a group, which counts them."""

    def bury(self, consumer: str, burials: Sequence[Burial]) -> Program[Mapping[str, Arrival]]:
        """Insert, or mark dead again; the groups come first, so that two runs do not count a letter twice."""
        arrivals = yield from Arrivals(consumer, burials).announce()
        yield from self._count_out(consumer, burials)
        for one in sorted(burials, key=lambda burial: burial.message.id):
            facts = {
                "because": one.reason,
                "tried": one.attempts,
                "failures": history_json(one.history),
                "last_stack": one.stack,
                "cause": one.fingerprint,
                "first_us": micros(one.history[0].at - EPOCH) if one.history else None,
            }
            row = {**message_values(one.message), "by": consumer, "hold_key": one.hold_key, **facts}
            yield Execute(BURY, row)
        return arrivals

    def _count_out(self, consumer: str, burials: Sequence[Burial]) -> Generator[Execute, Rows, None]:
        """Take letters that are dead already out of the counts of their groups."""
        ids = sorted({one.message.id for one in burials})
        already = yield Execute(STILL_DEAD, {"by": consumer, "ids": ids})
        yield from left([(consumer, row[0]) for row in already])

    def resolve(self, consumer: str, message_ids: Sequence[str]) -> Program[None]:
        """Mark replayed letters resolved."""
        yield Execute(RESOLVE, {"by": consumer, "ids": list(message_ids)})

    def find(self, where: DeadLetterFilter, *, after: int, limit: int) -> Program[Sequence[DeadLetter]]:
        """Select by the filter, page by id."""
        statement = find_statement(conditions(where))
        rows = yield Execute(statement, {**values_of(where), "after": after, "up_to": limit})
        return [_letter(row) for row in rows]

    def get(self, letter_id: int) -> Program[DeadLetter | None]:
        """Select one."""
        rows = yield Execute(GET, {"letter": letter_id})
        return _letter(rows[0]) if rows else None

    def move(self, letter_id: int, *, to: DeadLetterState) -> Program[bool]:
        """Compare and set the state."""
        moved = yield Execute(MOVE, {"letter": letter_id, "new_state": to.value})
        yield from left([(consumer, fingerprint) for consumer, fingerprint in moved])
        return bool(moved)

    def blocking(self, consumer: str, hold_key: str) -> Program[Sequence[DeadLetter]]:
        """Select for update."""
        rows = yield Execute(BLOCKING, {"by": consumer, "held_key": hold_key})
        return [_letter(row) for row in rows]

    def stand_alone(self, letter_id: int, hold_key: str) -> Program[None]:
        """Update the row."""
        yield Execute(STAND_ALONE, {"letter": letter_id, "own_key": hold_key})

    def of_message(self, consumer: str, message_id: str) -> Program[DeadLetter | None]:
        """Select one."""
        rows = yield Execute(OF_MESSAGE, {"by": consumer, "of_message": message_id})
        return _letter(rows[0]) if rows else None

    def count(self, where: DeadLetterFilter) -> Program[int]:
        """Count by the filter."""
        return int((yield Execute(count_statement(conditions(where)), values_of(where)))[0][0])
