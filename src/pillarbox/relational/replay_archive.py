"""Replay runs that are looked back on, in SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta

from sqlalchemy import BigInteger, bindparam, delete, select

from pillarbox.deadletter import RunState
from pillarbox.deadletter.archive import ReplayArchive
from pillarbox.deadletter.runs import ItemState
from pillarbox.relational.expressions import micros, now_us
from pillarbox.relational.operator_tables import replay_items, replay_runs
from pillarbox.relational.replay_outcomes import ITEM_STATE, RUN
from pillarbox.relational.tables import dead_letters
from pillarbox.transaction import Execute, Program

LETTER = bindparam("of_letter", type_=BigInteger)
UP_TO = bindparam("up_to", type_=BigInteger)
_item, _letter, _run = replay_items.c, dead_letters.c, replay_runs.c
_has_ended = _run.state != RunState.OPEN.value
_long_ago = select(now_us() - bindparam("age_us", type_=BigInteger)).scalar_subquery()

_in_the_run = select(_item.state).where(_item.run == _run.run, _item.letter == LETTER).scalar_subquery()
HAVING = (  # primary key of the items, for each run: an index by letter would be paid for by every replay of many
    select(_run.run)
    .where(_run.reached >= LETTER, _in_the_run != ItemState.PASSED.value)
    .order_by(_run.created_at, _run.run)
)
_kept = (  # the first one that is found; primary keys
    select(_item.letter)
    .select_from(replay_items.join(dead_letters, _letter.position == _item.letter))
    .where(_item.run == _run.run)
    .limit(1)
    .scalar_subquery()
)
OVER = (
    select(_run.run)
    .where(_has_ended, _run.ended_at < _long_ago, _kept.is_(None))
    .order_by(_run.ended_at, _run.run)
    .limit(UP_TO)
)
LOCK = select(_run.run).where(_run.run == RUN, _has_ended).with_for_update()  # of two who remove it one counts
FIRST = (
    select(_item.letter, ITEM_STATE)
    .select_from(replay_items.join(replay_runs, _item.run == _run.run))
    .where(_item.run == RUN)
    .order_by(_item.letter)
    .limit(UP_TO)
)
REMOVE_ITEMS = delete(replay_items).where(_item.run == RUN, _item.letter <= bindparam("last_letter", type_=BigInteger))
REMOVE = delete(replay_runs).where(_run.run == RUN)


class RelationalReplayArchive(ReplayArchive):
    """Rows of runs and of their letters."""

    def having(self, letter_id: int) -> Program[Sequence[str]]:
        """Look the letter up in each run."""
        return [row[0] for row in (yield Execute(HAVING, {"of_letter": letter_id}))]

    def over(self, older_than: timedelta, *, limit: int) -> Program[Sequence[str]]:
        """Look for a letter of each run that has ended."""
        return [row[0] for row in (yield Execute(OVER, {"age_us": micros(older_than), "up_to": limit}))]

    def remove(self, run_id: str, *, limit: int) -> Program[Mapping[ItemState, int] | None]:
        """Delete the first ones, and the run where these are the last."""
        which = {"of_run": run_id}
        if not (yield Execute(LOCK, which)):
            return None
        found = yield Execute(FIRST, {**which, "up_to": limit})
        if found:
            yield Execute(REMOVE_ITEMS, {**which, "last_letter": found[-1][0]})
        if len(found) < limit:
            yield Execute(REMOVE, which)
        return Counter(ItemState(state) for _, state in found)
