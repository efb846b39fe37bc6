"""Groups of dead letters in SQL: they count their letters as these come and go, so that nobody has to count them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    String,
    Text,
    Update,
    bindparam,
    case,
    delete,
    func,
    literal_column,
    select,
    update,
)

from pillarbox.deadletter import (
    Burial,
    DeadLetterCount,
    DeadLetterGroup,
    DeadLetterReview,
    DeadLetterState,
    GroupFilter,
    GroupState,
)
from pillarbox.deadletter.groups import MAX_EXAMPLE_CHARS, AgedLetters, Arrival
from pillarbox.holding import storable
from pillarbox.relational.expressions import any_of, insert_into, micros, now_us, numbers, rows_of
from pillarbox.relational.operator_tables import dead_letter_edits, dead_letter_groups
from pillarbox.relational.replay_outcomes import settle_some
from pillarbox.relational.tables import dead_letters
from pillarbox.transaction import Execute, Program, Row

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_NAME_CHARS = 200
_group = dead_letter_groups.c

_arrive = insert_into(dead_letter_groups).values(
    consumer=bindparam("by", type_=String),
    fingerprint=bindparam("cause", type_=String),
    type=bindparam("of_type", type_=String),
    error_type=bindparam("of_error", type_=String),
    example=bindparam("such_as", type_=Text),
    state=GroupState.OPEN.value,
    regressed=0,
    note="",
    arrivals=bindparam("come", type_=BigInteger),
    dead=bindparam("come", type_=BigInteger),
    first_seen=now_us(),
    last_seen=now_us(),
)
_met = (
    _group.consumer == bindparam("by", type_=String),
    _group.fingerprint == bindparam("cause", type_=String),
)
MEET = select(now_us() - _group.last_seen, _group.state).where(*_met).with_for_update()
COME = select(_group.arrivals).where(*_met)
_comes_back = _group.state == GroupState.RESOLVED.value
ARRIVE = _arrive.on_conflict_do_update(
    index_elements=["consumer", "fingerprint"],
    set_={  # MySQL assigns in this order: what is looked at comes before what is changed
        "regressed": case((_comes_back, 1), else_=_group.regressed),
        "state": case((_comes_back, GroupState.OPEN.value), else_=_group.state),
        "arrivals": _group.arrivals + _arrive.excluded.arrivals,
        "dead": _group.dead + _arrive.excluded.dead,
        "last_seen": _arrive.excluded.last_seen,
    },
)
_leaving = rows_of("leaving", consumer=String(), fingerprint=String(), gone=BigInteger())
_is_left = (_group.consumer == _leaving.c.consumer, _group.fingerprint == _leaving.c.fingerprint)
LOCK = select(_group.dead).where(*_is_left).order_by(_group.consumer, _group.fingerprint).with_for_update()
LEAVE = update(dead_letter_groups).where(*_is_left).values(dead=_group.dead - _leaving.c.gone)
STATS = (
    select(
        dead_letters.c.consumer,
        dead_letters.c.type,
        dead_letters.c.state,
        dead_letters.c.reason,
        func.count(),
        func.min(dead_letters.c.first_failed_at),
    )
    .group_by(dead_letters.c.consumer, dead_letters.c.type, dead_letters.c.state, dead_letters.c.reason)
    .order_by(dead_letters.c.consumer, dead_letters.c.type, dead_letters.c.state, dead_letters.c.reason)
)
_FACTS = (
    "consumer",
    "fingerprint",
    "type",
    "example",
    "error_type",
    "state",
    "regressed",
    "note",
    "arrivals",
    "dead",
    "first_seen",
    "last_seen",
)
_CONDITIONS: dict[str, ColumnElement[bool]] = {
    "consumer": _group.consumer == bindparam("of_consumer", type_=String),
    "fingerprint": _group.fingerprint == bindparam("of_group", type_=String),
    "state": _group.state == bindparam("in_state", type_=String),
}
_long_ago = select(now_us() - bindparam("age_us", type_=BigInteger)).scalar_subquery()  # once, so that an index serves
AGED = (  # index on (state, last_failed_at, consumer) alone
    select(dead_letters.c.consumer, func.count(), now_us() - func.min(dead_letters.c.last_failed_at))
    .where(
        dead_letters.c.state == literal_column(f"'{DeadLetterState.DEAD}'"),
        dead_letters.c.last_failed_at < _long_ago,
    )
    .group_by(dead_letters.c.consumer)
)
SETTLED = (  # index on (state, last_failed_at, consumer)
    select(dead_letters.c.position, dead_letters.c.replays)
    .where(
        dead_letters.c.state.in_([DeadLetterState.RESOLVED.value, DeadLetterState.DISCARDED.value]),
        dead_letters.c.last_failed_at < _long_ago,
    )
    .limit(bindparam("up_to", type_=BigInteger))
    .with_for_update(skip_locked=True)
)
PURGE = delete(dead_letters).where(any_of(dead_letters.c.position, numbers("letters")))
PURGE_EDITS = delete(dead_letter_edits).where(any_of(dead_letter_edits.c.letter, numbers("letters")))


@lru_cache(maxsize=16)
def groups_statement(asked: tuple[str, ...]) -> Select[Any]:
    """Return the statement that finds groups."""
    return (
        select(*(_group[name] for name in _FACTS))
        .where(*(_CONDITIONS[name] for name in asked))
        .order_by(_group.last_seen.desc(), _group.consumer, _group.fingerprint)
        .limit(bindparam("up_to", type_=BigInteger))
    )


@lru_cache(maxsize=32)
def judge_statement(asked: tuple[str, ...], *, gets_state: bool, gets_note: bool) -> Update:
    """Return the statement that gives groups a state, a note, or both."""
    statement = update(dead_letter_groups).where(*(_CONDITIONS[name] for name in asked)).returning(_group.fingerprint)
    if gets_state:
        statement = statement.values(state=bindparam("new_state", type_=String), regressed=0)
    return statement.values(note=bindparam("new_note", type_=Text)) if gets_note else statement


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Letters on their way into their groups."""

    consumer: str
    burials: Sequence[Burial]

    def announce(self) -> Program[Mapping[str, Arrival]]:
        """Count them into their groups, in sorted order; a resolved group is open again and bears the mark of it.

        Returns:
            By fingerprint, what each group was before, as nobody else can have found it.
        """
        count = Counter(one.fingerprint for one in self.burials)
        first = {one.fingerprint: one for one in reversed(self.burials)}
        arrivals: dict[str, Arrival] = {}
        for fingerprint in sorted(first):
            met = yield Execute(MEET, {"by": self.consumer, "cause": fingerprint})
            one = first[fingerprint]
            last = one.history[-1] if one.history else None
            yield Execute(
                ARRIVE,
                {
                    "by": self.consumer,
                    "cause": fingerprint,
                    "of_type": one.message.type,
                    "of_error": storable("" if last is None else last.error_type)[:MAX_NAME_CHARS],
                    "such_as": storable(one.reason if last is None else last.error)[:MAX_EXAMPLE_CHARS],
                    "come": count[fingerprint],
                },
            )
            if met:
                ((quiet_us, state),) = met
                quiet_for = timedelta(microseconds=max(quiet_us, 0))
                arrivals[fingerprint] = Arrival(quiet_for=quiet_for, regressed=state == GroupState.RESOLVED.value)
            else:  # others may have been faster since
                ((come,),) = yield Execute(COME, {"by": self.consumer, "cause": fingerprint})
                is_first = come == count[fingerprint]
                arrivals[fingerprint] = Arrival(quiet_for=None if is_first else timedelta(0))
        return arrivals


def left(letters: Sequence[Row]) -> Program[None]:
    """Count letters, given by consumer and fingerprint, out of their groups, which are locked in sorted order.

    MySQL locks rows as it joins them, before it sorts: there the order of what is given decides.
    """
    counts = Counter((row[0], row[1]) for row in letters)
    leaving = [
        {"consumer": consumer, "fingerprint": fingerprint, "gone": count}
        for (consumer, fingerprint), count in sorted(counts.items())
    ]
    if len(leaving) > 1:
        yield Execute(LOCK, {"leaving": leaving})
    if leaving:
        yield Execute(LEAVE, {"leaving": leaving})


class RelationalDeadLetterReview(DeadLetterReview):
    """Counts, groups and retention."""

    def stats(self) -> Program[Sequence[DeadLetterCount]]:
        """Group the letters."""
        return [
            DeadLetterCount(
                consumer=consumer,
                type=kind,
                state=DeadLetterState(state),
                reason=reason,
                count=count,
                oldest_failed_at=_instant(oldest),
            )
            for consumer, kind, state, reason, count, oldest in (yield Execute(STATS))
        ]

    def groups(self, where: GroupFilter, *, limit: int) -> Program[Sequence[DeadLetterGroup]]:
        """Select by the filter."""
        statement = groups_statement(_asked(where))
        return [_read(row) for row in (yield Execute(statement, {**_values(where), "up_to": limit}))]

    def judge(self, where: GroupFilter, *, state: GroupState | None, note: str | None) -> Program[int]:
        """Update by the filter."""
        if state is None and note is None:
            return 0
        statement = judge_statement(_asked(where), gets_state=state is not None, gets_note=note is not None)
        given = {"new_state": None if state is None else state.value, "new_note": note}
        asked = {name: value for name, value in given.items() if value is not None}
        return len((yield Execute(statement, {**_values(where), **asked})))

    def aged(self, older_than: timedelta) -> Program[Sequence[AgedLetters]]:
        """Group those that are old."""
        rows = yield Execute(AGED, {"age_us": micros(older_than)})
        return [
            AgedLetters(consumer=consumer, count=count, oldest_for=timedelta(microseconds=int(oldest_us)))
            for consumer, count, oldest_us in sorted(rows, key=lambda row: str(row[0]))
        ]

    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Choose, note what became of them in replay runs, and delete, with the earlier bodies."""
        found = yield Execute(SETTLED, {"age_us": micros(older_than), "up_to": limit})
        if found:
            yield from settle_some([letter for letter, replays in found if replays])
            letters = {"letters": [row[0] for row in found]}
            yield Execute(PURGE_EDITS, letters)
            yield Execute(PURGE, letters)
        return len(found)


def _asked(where: GroupFilter) -> tuple[str, ...]:
    return tuple(name for name in _CONDITIONS if getattr(where, name) is not None)


def _values(where: GroupFilter) -> dict[str, object]:
    state = None if where.state is None else where.state.value
    found = {"of_consumer": where.consumer, "of_group": where.fingerprint, "in_state": state}
    return {name: value for name, value in found.items() if value is not None}


def _read(row: Row) -> DeadLetterGroup:
    facts = dict(zip(_FACTS, row, strict=True))
    return DeadLetterGroup(
        consumer=facts["consumer"],
        fingerprint=facts["fingerprint"],
        type=facts["type"],
        error_type=facts["error_type"],
        example=facts["example"],
        state=GroupState(facts["state"]),
        regressed=bool(facts["regressed"]),
        note=facts["note"],
        arrivals=facts["arrivals"],
        dead=facts["dead"],
        first_seen=_instant(facts["first_seen"]),
        last_seen=_instant(facts["last_seen"]),
    )


def _instant(micros_since_1970: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros_since_1970)
