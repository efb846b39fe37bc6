"""Dead letters in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    String,
    Text,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
    update,
)

from pillarbox.deadletter import Burial, DeadLetter, DeadLetterFilter, DeadLetterState, DeadLetterStore
from pillarbox.relational.expressions import any_of, characters_in, insert_into, micros, now_us, texts
from pillarbox.relational.holding import history_json, history_of
from pillarbox.relational.rows import MESSAGE_COLUMNS, columns, message_columns, message_of, message_values
from pillarbox.relational.tables import dead_letters
from pillarbox.transaction import Execute, Program, Row

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
    .returning(dead_letters.c.position)
)


def _asked(column: str, parameter: str) -> ColumnElement[bool]:
    """Return a condition that holds for everything when the parameter is NULL."""
    value = bindparam(parameter, type_=String)
    return or_(value.is_(None), dead_letters.c[column] == value)


_matches = and_(
    _asked("type", "of_type"),
    _asked("consumer", "of_consumer"),
    _asked("fingerprint", "of_group"),
    _asked("state", "in_state"),
    _asked("message_key", "of_key"),
)
FIND = (
    select(*_columns)
    .where(_matches, dead_letters.c.position > bindparam("after", type_=BigInteger))
    .order_by(dead_letters.c.position)
    .limit(bindparam("up_to", type_=BigInteger))
)
COUNT = select(func.count()).select_from(dead_letters).where(_matches)


def _parameters(where: DeadLetterFilter) -> dict[str, object]:
    return {
        "of_type": where.type,
        "of_consumer": where.consumer,
        "of_group": where.group,
        "in_state": None if where.state is None else where.state.value,
        "of_key": where.key,
    }


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


class RelationalDeadLetterStore(DeadLetterStore):
    """Dead letters as rows, unique by consumer and message."""

    def bury(self, consumer: str, burials: Sequence[Burial]) -> Program[None]:
        """Insert, or mark dead again."""
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

    def resolve(self, consumer: str, message_ids: Sequence[str]) -> Program[None]:
        """Mark replayed letters resolved."""
        yield Execute(RESOLVE, {"by": consumer, "ids": list(message_ids)})

    def find(self, where: DeadLetterFilter, *, after: int, limit: int) -> Program[Sequence[DeadLetter]]:
        """Select by the filter, page by id."""
        rows = yield Execute(FIND, {**_parameters(where), "after": after, "up_to": limit})
        return [_letter(row) for row in rows]

    def get(self, letter_id: int) -> Program[DeadLetter | None]:
        """Select one."""
        rows = yield Execute(GET, {"letter": letter_id})
        return _letter(rows[0]) if rows else None

    def move(self, letter_id: int, *, to: DeadLetterState) -> Program[bool]:
        """Compare and set the state."""
        return bool((yield Execute(MOVE, {"letter": letter_id, "new_state": to.value})))

    def count(self, where: DeadLetterFilter) -> Program[int]:
        """Count by the filter."""
        return int((yield Execute(COUNT, _parameters(where)))[0][0])
