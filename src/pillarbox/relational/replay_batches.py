"""Batches of replay runs in SQL: letters are moved from the dead letters into holding by a few statements a batch."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, Integer, bindparam, case, delete, literal, or_, select, update

from pillarbox.deadletter import DeadLetterState, RunState
from pillarbox.deadletter.batches import ReplayBatchStore, RunElsewhere, Taken
from pillarbox.deadletter.runs import MAX_REPLAYS, ItemState
from pillarbox.holding import HeldState, HoldState
from pillarbox.relational.dead_letter_groups import left
from pillarbox.relational.expressions import any_of, insert_into, now_us, numbers
from pillarbox.relational.holding import RANKS
from pillarbox.relational.operator_tables import replay_items, replay_runs
from pillarbox.relational.replay_outcomes import IS_REPLAYING, LETTERS, RUN
from pillarbox.relational.rows import MESSAGE_COLUMNS, columns
from pillarbox.relational.tables import dead_letters, held, holds
from pillarbox.transaction import Execute, Program, Row

_item, _letter, _run = replay_items.c, dead_letters.c, replay_runs.c

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


class RelationalReplayBatches(ReplayBatchStore):
    """A run's next letters as rows that change their state, and are copied."""

    def take(self, run_id: str, *, after: int, at_most: int) -> Program[Taken | None]:
        """Take letters by compare and set."""
        which = {"of_run": run_id}
        if not (found := (yield Execute(STANDING, which))):
            return None
        forced, earliest = found[0]
        if not (chosen := (yield Execute(NEXT, {**which, "after": after, "up_to": at_most}))):
            return None
        taken = yield from _take(chosen, earliest=earliest, at_most=None if forced else MAX_REPLAYS)
        letters = sorted((position, consumer, fingerprint) for position, consumer, fingerprint in taken)
        passed = sorted({row[0] for row in chosen}.difference(letter[0] for letter in letters))
        return Taken(run_id=run_id, after=after, letters=letters, passed=passed, last=chosen[-1][0])

    def hold(self, taken: Taken) -> Program[None]:
        """Insert or update the holds in sorted order, then lock the run's row, by which batches queue."""
        if taken.letters:
            yield Execute(HOLD, {"letters": taken.positions})
        standing = yield Execute(LOCK, {"of_run": taken.run_id})
        if not standing or standing[0][0] != taken.after:
            raise RunElsewhere(taken.run_id)

    def enqueue(self, taken: Taken) -> Program[None]:
        """Copy letters into holding."""
        which = {"of_run": taken.run_id}
        if taken.letters:
            if not (yield from self._put(taken.positions)):
                yield from _make_way(taken.positions)
            yield from left([(consumer, fingerprint) for _, consumer, fingerprint in taken.letters])
        if taken.passed:
            yield Execute(PASS, {**which, "letters": list(taken.passed)})
        yield Execute(REACH, {**which, "last": taken.last})

    def _put(self, positions: Sequence[int]) -> Program[bool]:
        """Insert letters into holding; tell whether all of them surely were, with nothing in the way of one."""
        return len((yield Execute(ENQUEUE_AND_TELL, {"letters": positions}))) == len(positions)


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
