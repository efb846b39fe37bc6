"""Replay runs in SQL: a set of letters is moved from the dead letters into holding by a few statements a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Executable,
    Integer,
    SmallInteger,
    String,
    Text,
    and_,
    bindparam,
    case,
    delete,
    func,
    literal,
    or_,
    select,
    text,
    true,
    update,
)

from pillarbox.deadletter import DeadLetterFilter, DeadLetterState, ReplayRun, ReplayRunStore, RunState
from pillarbox.deadletter.runs import MAX_REPLAYS, ItemState, ReplayTerms, RunElsewhere, Taken
from pillarbox.holding import HeldState, HoldState
from pillarbox.relational.dead_letter_groups import left
from pillarbox.relational.dead_letters import conditions, matching, values_of
from pillarbox.relational.expressions import any_of, insert_into, micros, now_us, numbers
from pillarbox.relational.holding import RANKS
from pillarbox.relational.operator_tables import replay_items, replay_runs
from pillarbox.relational.replay_outcomes import IS_REPLAYING, ITEM_STATE, LETTERS, RUN, SETTLE
from pillarbox.relational.rows import MESSAGE_COLUMNS, columns
from pillarbox.relational.tables import dead_letters, held, holds
from pillarbox.transaction import Execute, Program, Row

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PERMILLE = 1000
_item, _letter, _run = replay_items.c, dead_letters.c, replay_runs.c
_decode_filter = msgspec.json.Decoder(DeadLetterFilter).decode

CREATE = insert_into(replay_runs).values(
    run=RUN,
    state=RunState.OPEN.value,
    wanted=bindparam("chosen_by", type_=Text),
    requested_by=bindparam("by", type_=String),
    per_second=bindparam("rate", type_=Integer),
    canary=bindparam("first", type_=Integer),
    stop_at_permille=bindparam("stop_at", type_=Integer),
    forced=bindparam("force", type_=SmallInteger),
    within_us=bindparam("within_us", type_=BigInteger),
    reached=0,
    created_at=now_us(),
    ended_because="",
)
_FACTS = (
    "run",
    "state",
    "wanted",
    "requested_by",
    "per_second",
    "canary",
    "stop_at_permille",
    "forced",
    "within_us",
    "created_at",
    "ended_at",
    "ended_because",
    "reached",
)
GET = select(*(_run[name] for name in _FACTS)).where(_run.run == RUN)
PROGRESS = (  # primary key
    select(ITEM_STATE, func.count())
    .select_from(replay_items.join(replay_runs, _item.run == _run.run))
    .where(_item.run == RUN)
    .group_by(text("standing"))
)
FIND = select(_run.run).order_by(_run.created_at.desc(), _run.run.desc()).limit(bindparam("up_to", type_=BigInteger))
FIND_IN_STATE = FIND.where(_run.state == bindparam("in_state", type_=String))
END = (
    update(replay_runs)
    .where(_run.run == RUN, _run.state == RunState.OPEN.value)
    .values(
        state=bindparam("new_state", type_=String), ended_at=now_us(), ended_because=bindparam("because", type_=Text)
    )
    .returning(_run.run)
)
_earliest = case((or_(_run.forced == 1, _run.within_us.is_(None)), 0), else_=now_us() - _run.within_us)
STANDING = select(_run.forced, _earliest).where(_run.run == RUN, _run.state == RunState.OPEN.value)
LOCK = (  # one batch of a run after the other, and one that is cancelled meanwhile goes no further
    select(_run.reached).where(_run.run == RUN, _run.state == RunState.OPEN.value).with_for_update()
)
NEXT = (  # primary key; between, since PostgreSQL walks a small range in order also where it knows no values yet
    select(_item.letter, _item.replays)
    .where(_item.run == RUN, _item.letter.between(bindparam("after", type_=BigInteger) + 1, 2**63 - 1))
    .order_by(_item.letter)
    .limit(bindparam("up_to", type_=BigInteger))
)
REACH = update(replay_runs).where(_run.run == RUN).values(reached=bindparam("last", type_=BigInteger))
TAKE = (
    update(dead_letters)
    .where(
        any_of(_letter.position, LETTERS),
        _letter.state == DeadLetterState.DEAD.value,
        _letter.replays == bindparam("frozen", type_=Integer),
        _letter.last_failed_at >= bindparam("earliest", type_=BigInteger),
    )
    .values(state=DeadLetterState.REPLAYING.value, replays=_letter.replays + 1)
    .returning(_letter.position, _letter.consumer, _letter.fingerprint)
)
_copy = select(held.c.position).where(
    held.c.consumer == _letter.consumer,
    held.c.message_id == _letter.message_id,
    held.c.state == HeldState.HELD.value,
)
COPIES = select(_copy.scalar_subquery()).where(any_of(_letter.position, LETTERS))  # looked up for each: they are rare
_in_the_way = select(held.c.position).where(
    held.c.consumer == _letter.consumer,
    held.c.message_id == _letter.message_id,
    held.c.state.in_([HeldState.HELD.value, HeldState.REPLAYING.value]),
)
IN_THE_WAY = select(_in_the_way.scalar_subquery()).where(any_of(_letter.position, LETTERS))
MAKE_WAY = delete(held).where(any_of(held.c.position, numbers("in_the_way")))
_now = select(now_us()).scalar_subquery()  # once for all rows: the clock costs more than an index entry
_hold = insert_into(holds).from_select(
    ["consumer", "hold_key", "state", "due_at", "lease_until", "since"],
    select(_letter.consumer, _letter.hold_key, literal(HoldState.WAITING.value), _now, literal(0), _now)
    .where(any_of(_letter.position, LETTERS), IS_REPLAYING)
    .group_by(_letter.consumer, _letter.hold_key)
    .order_by(_letter.consumer, _letter.hold_key),
)
HOLD = _hold.on_conflict_do_update(
    index_elements=["consumer", "hold_key"],
    set_={"state": _hold.excluded.state, "due_at": _hold.excluded.due_at},
)
ENQUEUE = (
    insert_into(held)
    .from_select(
        ["consumer", "hold_key", *MESSAGE_COLUMNS, "state", "rank", "attempts", "due_at", "history"],
        select(
            *columns(dead_letters, ("consumer", "hold_key", *MESSAGE_COLUMNS)),
            literal(HeldState.REPLAYING.value),
            literal(RANKS[HeldState.REPLAYING]),
            literal(0),
            _now,
            literal("[]"),
        )
        .where(any_of(_letter.position, LETTERS), IS_REPLAYING)
        .order_by(_letter.position),
    )
    .on_conflict_do_nothing(index_elements=["consumer", "message_id"])
)
ENQUEUE_AND_TELL = ENQUEUE.returning(held.c.position)
PASS = update(replay_items).where(_item.run == RUN, any_of(_item.letter, LETTERS)).values(state=ItemState.PASSED.value)


@lru_cache(maxsize=128)
def freeze_statement(asked: tuple[str, ...]) -> Executable:
    """Return the statement that notes which letters a run has."""
    chosen = select(RUN, _letter.position, _letter.replays, literal(ItemState.PENDING.value))
    return insert_into(replay_items).from_select(
        ["run", "letter", "replays", "state"], chosen.where(*matching(asked), text("true")).order_by(_letter.position)
    )


@lru_cache(maxsize=128)
def survey_statement(asked: tuple[str, ...], *, is_forced: bool, is_limited: bool) -> Executable:
    """Return the statement that counts what matches, and what of it is replayed."""
    is_replayed: list[ColumnElement[bool]] = [] if is_forced else [_letter.replays < MAX_REPLAYS]
    if is_limited:
        is_replayed.append(_letter.last_failed_at >= now_us() - bindparam("within", type_=BigInteger))
    chosen = func.coalesce(func.sum(case((and_(true(), *is_replayed), 1), else_=0)), 0)
    return select(func.count(), chosen).select_from(dead_letters).where(*matching(asked))


class RelationalReplayRuns(ReplayRunStore):
    """Runs and their letters as rows."""

    def create(self, run_id: str, wanted: DeadLetterFilter, terms: ReplayTerms, *, by: str) -> Program[int]:
        """Insert the run, then its letters from those that match."""
        yield Execute(
            CREATE,
            {
                "of_run": run_id,
                "chosen_by": msgspec.json.encode(wanted).decode(),
                "by": by,
                "rate": terms.rate,
                "first": terms.canary,
                "stop_at": None if terms.stop_at is None else round(terms.stop_at * PERMILLE),
                "force": int(terms.force),
                "within_us": None if terms.within is None else micros(terms.within),
            },
        )
        yield Execute(freeze_statement(conditions(wanted)), {**values_of(wanted), "of_run": run_id})
        counts = yield Execute(PROGRESS, {"of_run": run_id})
        return sum(count for _, count in counts)

    def survey(self, wanted: DeadLetterFilter, terms: ReplayTerms) -> Program[Mapping[ItemState, int]]:
        """Count both at once."""
        within = None if terms.force else terms.within
        statement = survey_statement(conditions(wanted), is_forced=terms.force, is_limited=within is not None)
        values = {**values_of(wanted), "within": None if within is None else micros(within)}
        total, chosen = (yield Execute(statement, values))[0]
        return {ItemState.PENDING: int(chosen), ItemState.PASSED: total - int(chosen)}

    def get(self, run_id: str) -> Program[ReplayRun | None]:
        """Look at what became of the letters that are under way, then count."""
        which = {"of_run": run_id}
        found = yield Execute(GET, which)
        if not found:
            return None
        yield Execute(SETTLE, which)
        counts = {ItemState(state): count for state, count in (yield Execute(PROGRESS, which))}
        return _read(found[0], counts)

    def find(self, state: RunState | None, *, limit: int) -> Program[Sequence[str]]:
        """Select by state."""
        if state is None:
            rows = yield Execute(FIND, {"up_to": limit})
        else:
            rows = yield Execute(FIND_IN_STATE, {"up_to": limit, "in_state": state.value})
        return [row[0] for row in rows]

    def take(self, run_id: str, *, after: int, at_most: int) -> Program[Taken | None]:
        """Take letters by compare and set; the run's row is locked last, by which those who take its letters queue."""
        which = {"of_run": run_id}
        if not (found := (yield Execute(STANDING, which))):
            return None
        forced, earliest = found[0]
        if not (chosen := (yield Execute(NEXT, {**which, "after": after, "up_to": at_most}))):
            return None
        taken = yield from _take(chosen, earliest=earliest, at_most=None if forced else MAX_REPLAYS)
        standing = yield Execute(LOCK, which)
        if not standing or standing[0][0] != after:
            raise RunElsewhere(run_id)
        letters = sorted((position, consumer, fingerprint) for position, consumer, fingerprint in taken)
        passed = sorted({row[0] for row in chosen}.difference(letter[0] for letter in letters))
        return Taken(run_id=run_id, letters=letters, passed=passed, last=chosen[-1][0])

    def enqueue(self, taken: Taken) -> Program[None]:
        """Copy letters into holding."""
        which = {"of_run": taken.run_id}
        if positions := [letter for letter, _, _ in taken.letters]:
            yield Execute(HOLD, {"letters": positions})
            if not (yield from self._put(positions)):
                yield from _make_way(positions)
            yield from left([(consumer, fingerprint) for _, consumer, fingerprint in taken.letters])
        if taken.passed:
            yield Execute(PASS, {**which, "letters": list(taken.passed)})
        yield Execute(REACH, {**which, "last": taken.last})

    def _put(self, positions: Sequence[int]) -> Program[bool]:
        """Insert letters into holding; tell whether all of them surely were, with nothing in the way of one."""
        return len((yield Execute(ENQUEUE_AND_TELL, {"letters": positions}))) == len(positions)

    def end(self, run_id: str, *, state: RunState, because: str) -> Program[bool]:
        """Compare and set the state."""
        return bool((yield Execute(END, {"of_run": run_id, "new_state": state.value, "because": because})))


def _make_way(positions: Sequence[int]) -> Program[None]:
    """Put letters in the place of late duplicates that are held behind their own keys.

    These are looked for when the letters were put, which has waited for whoever was putting one aside; then all of the
    letters are put again, so that they keep their order.
    """
    which = {"letters": positions}
    if any(row[0] is not None for row in (yield Execute(COPIES, which))):
        rows = yield Execute(IN_THE_WAY, which)
        yield Execute(MAKE_WAY, {"in_the_way": [row[0] for row in rows if row[0] is not None]})
        yield Execute(ENQUEUE, which)


def _take(chosen: Sequence[Row], *, earliest: int, at_most: int | None) -> Program[list[Row]]:
    """Take what is still as it was frozen; most letters were replayed equally often."""
    by_replays: dict[int, list[int]] = {}
    for letter, replays in chosen:
        by_replays.setdefault(replays, []).append(letter)
    taken: list[Row] = []
    for replays, letters in sorted(by_replays.items()):
        if at_most is None or replays < at_most:
            taken += yield Execute(TAKE, {"letters": letters, "frozen": replays, "earliest": earliest})
    return taken


def _read(row: Row, counts: dict[ItemState, int]) -> ReplayRun:
    facts: dict[str, Any] = dict(zip(_FACTS, row, strict=True))
    stop_at, ended_at = facts["stop_at_permille"], facts["ended_at"]
    return ReplayRun(
        id=facts["run"],
        state=RunState(facts["state"]),
        wanted=_decode_filter(facts["wanted"]),
        terms=ReplayTerms(
            rate=facts["per_second"],
            canary=facts["canary"],
            stop_at=None if stop_at is None else stop_at / PERMILLE,
            force=bool(facts["forced"]),
            within=None if facts["within_us"] is None else timedelta(microseconds=facts["within_us"]),
        ),
        by=facts["requested_by"],
        created_at=_instant(facts["created_at"]),
        ended_at=None if ended_at is None else _instant(ended_at),
        ended_because=facts["ended_because"],
        reached=facts["reached"],
        items=counts,
    )


def _instant(micros_since_1970: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros_since_1970)
