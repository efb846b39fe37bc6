"""Replay runs in SQL: a row for each, one for each letter that was frozen, and what has become of them."""

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
    func,
    literal,
    select,
    text,
    true,
    update,
)

from pillarbox.deadletter import DeadLetterFilter, ReplayRun, ReplayRunStore, RunState
from pillarbox.deadletter.runs import MAX_REPLAYS, ItemState, ReplayTerms
from pillarbox.relational.dead_letters import conditions, matching, values_of
from pillarbox.relational.expressions import insert_into, micros, now_us
from pillarbox.relational.operator_tables import replay_items, replay_runs
from pillarbox.relational.replay_outcomes import ITEM_STATE, RUN, SETTLE
from pillarbox.relational.tables import dead_letters
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

    def end(self, run_id: str, *, state: RunState, because: str) -> Program[bool]:
        """Compare and set the state."""
        return bool((yield Execute(END, {"of_run": run_id, "new_state": state.value, "because": because})))


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
