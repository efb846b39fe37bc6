"""What became of the letters of replay runs, in SQL: noted when somebody looks, and before a letter is purged."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import String, and_, bindparam, case, func, literal_column, select, update

from pillarbox.deadletter import DeadLetterState, RunState
from pillarbox.deadletter.runs import ItemState
from pillarbox.relational.expressions import any_of, numbers
from pillarbox.relational.operator_tables import replay_items, replay_runs
from pillarbox.relational.tables import dead_letters
from pillarbox.transaction import Execute, Program

RUN = bindparam("of_run", type_=String)
LETTERS = numbers("letters")
_item, _letter, _run = replay_items.c, dead_letters.c, replay_runs.c

_has_had_its_turn = _item.letter <= _run.reached
ITEM_STATE = case(
    (and_(_item.state == ItemState.PENDING.value, _has_had_its_turn), ItemState.ENQUEUED.value), else_=_item.state
).label("standing")
_same = _letter.position == _item.letter
_is_ours = _letter.replays == _item.replays + 1  # else somebody has replayed it again since
_came_through = case(
    (and_(_is_ours, _letter.state == DeadLetterState.RESOLVED.value), ItemState.RESOLVED.value),
    else_=ItemState.FAILED.value,
)
IS_REPLAYING = _letter.state == literal_column(f"'{DeadLetterState.REPLAYING}'")
"""Spelled out, since it names a partial index: of many letters that were just taken the new rows lie side by side."""
_is_under_way = (  # looked up for each: a join would be planned by how many were being replayed a while ago
    select(case((_is_ours, 1), else_=0)).where(_same, IS_REPLAYING).scalar_subquery()
)
_outcome = select(_came_through).where(_same).scalar_subquery()
SETTLE = (  # what is gone without having been noted was not purged here: nobody can say that it was handled
    update(replay_items)
    .where(
        _item.run == RUN,
        _item.state == ItemState.PENDING.value,
        _item.letter <= select(_run.reached).where(_run.run == RUN).scalar_subquery(),
        func.coalesce(_is_under_way, 0) == 0,
    )
    .values(state=func.coalesce(_outcome, ItemState.FAILED.value))
)
SETTLE_SOME = SETTLE.where(any_of(_item.letter, LETTERS))
UNSETTLED = select(_run.run).where(  # index on (state, created_at); of a finished run all outcomes are noted
    _run.state.in_([RunState.OPEN.value, RunState.STOPPED.value, RunState.CANCELLED.value])
)


def settle_some(letters: Sequence[int]) -> Program[None]:
    """Note what became of letters in every run that has them, as long as they can be asked."""
    if letters:
        for run_id in sorted(row[0] for row in (yield Execute(UNSETTLED))):
            yield Execute(SETTLE_SOME, {"of_run": run_id, "letters": list(letters)})
