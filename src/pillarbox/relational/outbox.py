"""The outbox in SQL: how records enter it, leave it, and are put out of the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Executable,
    FromClause,
    ScalarSelect,
    String,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    exists,
    func,
    or_,
    select,
    true,
)

from pillarbox.outbox import KeyNumbers, OutboxRecord, OutboxState, OutboxStore, bucket_for
from pillarbox.outbox.numbers import give_numbers
from pillarbox.relational.cursor import pending
from pillarbox.relational.expressions import (
    any_of,
    anywhere,
    insert_into,
    micros,
    none_of,
    now_us,
    numbers,
    oldest_first,
    position_list,
    texts,
)
from pillarbox.relational.keeping import KEEP
from pillarbox.relational.leases import is_owned
from pillarbox.relational.outbox_held import HELD, OWNED_AMONG, PARKED, RELEASED, REMOVE, put_aside
from pillarbox.relational.rows import (
    RECORD_COLUMNS,
    columns,
    message_of,
    record_message_columns,
    record_values,
)
from pillarbox.relational.tables import (
    outbox,
    outbox_held,
    outbox_holds,
    outbox_scheduled,
)
from pillarbox.relay.low_watermark import OutboxHorizon
from pillarbox.relay.reader import (
    Aside,
    PendingRecord,
    ReadPlan,
    SlotReader,
)
from pillarbox.transaction import Execute, Program

DELAY = bindparam("delay_us", type_=BigInteger)
AT = position_list("positions")


def _copy_of(table: Table) -> dict[str, object]:
    return {name: bindparam(name, type_=table.c[name].type) for name in RECORD_COLUMNS[:-1]}


APPEND = insert_into(outbox).values(**_copy_of(outbox), created_at=now_us())


def _append_under(locked: FromClause) -> Executable:
    """Return the insert of one record whose position is taken once ``locked`` has given its row: one round trip."""
    values = _copy_of(outbox)
    kinds = {name: outbox.c[name].type for name in values}
    casts = [  # a cast to the column's own type would cut off what is too long, instead of refusing it
        cast(value, Text() if isinstance(kinds[name], String) else kinds[name]) for name, value in values.items()
    ]
    return insert_into(outbox).from_select([*values, "created_at"], select(*casts, now_us()).select_from(locked))


SCHEDULE = insert_into(outbox_scheduled).values(
    **_copy_of(outbox_scheduled), created_at=now_us(), due_at=now_us() + DELAY
)

KEY_IS_HELD = exists().where(
    outbox_holds.c.destination == outbox.c.destination, outbox_holds.c.message_key == outbox.c.message_key
)
_RUN = (bindparam("run_first", type_=BigInteger), bindparam("run_last", type_=BigInteger))
READ = (  # walks the primary key from the oldest position; the two lists are short, and a run costs a comparison a row
    select(outbox.c.position, outbox.c.slot, KEY_IS_HELD.label("held"), *record_message_columns(outbox))
    .where(
        anywhere(outbox.c.position),
        outbox.c.position.between(*_RUN).is_not(true()),  # is_not, so that no plan takes it for two walks
        any_of(outbox.c.slot, numbers("slots")),
        none_of(outbox.c.position, position_list("in_flight")),
        none_of(outbox.c.destination, texts("paused")),
    )
    .order_by(outbox.c.position)
    .limit(bindparam("up_to", type_=BigInteger))
)


def _settle(condition: ColumnElement[Any]) -> tuple[Executable, Executable]:
    """Return the fenced removal of what ``condition`` finds: one that tells the positions, and one that counts."""
    removal = delete(outbox).where(condition, is_owned(outbox.c.slot, locked=False)).returning(outbox.c.position)
    return removal, select(func.count()).select_from(removal.cte("settled"))


SETTLE, SETTLE_AND_COUNT = _settle(any_of(outbox.c.position, AT))  # primary key
SETTLE_RUN, SETTLE_RUN_AND_COUNT = _settle(outbox.c.position.between(*_RUN))  # one walk of the primary key

# --- scheduled records ------------------------------------------------------------------------------------------------
_after_due, _after = bindparam("after_due", type_=BigInteger), bindparam("after", type_=BigInteger)
DUE = (  # index on (due_at, position)
    select(*columns(outbox_scheduled, ("due_at", "position", *RECORD_COLUMNS)))
    .where(
        outbox_scheduled.c.due_at >= _after_due,
        outbox_scheduled.c.due_at <= now_us(),
        or_(outbox_scheduled.c.due_at > _after_due, outbox_scheduled.c.position > _after),
        is_owned(outbox_scheduled.c.slot, locked=True),
    )
    .order_by(outbox_scheduled.c.due_at, outbox_scheduled.c.position)
    .limit(bindparam("up_to", type_=BigInteger))
)
HAS_BESIDE = select(  # index on due_at, index on (state, position)
    or_(
        exists().where(outbox_scheduled.c.due_at <= now_us(), any_of(outbox_scheduled.c.slot, numbers("slots"))),
        exists().where(outbox_held.c.state == RELEASED, any_of(outbox_held.c.slot, numbers("slots"))),
    )
)
UNSCHEDULE = delete(outbox_scheduled).where(any_of(outbox_scheduled.c.position, AT))

# --- what waits -------------------------------------------------------------------------------------------------------
_in_order = oldest_first(outbox.c.transaction_id, outbox.c.position)
_first = select(now_us() - outbox.c.created_at).where(pending()).order_by(_in_order).limit(1)
_released_first = select(now_us() - func.min(outbox_held.c.parked_at)).where(outbox_held.c.state == RELEASED)

_due_first = select(now_us() - func.min(outbox_scheduled.c.due_at))  # index on due_at; below 0 while none is due


def _set_aside(state: str) -> ScalarSelect[int]:
    return select(func.count()).select_from(outbox_held).where(outbox_held.c.state == state).scalar_subquery()


STATE = select(
    select(func.count()).select_from(outbox).where(pending()).scalar_subquery(),
    _first.scalar_subquery(),
    _set_aside(RELEASED),
    _released_first.scalar_subquery(),
    _due_first.scalar_subquery(),
    select(func.count()).select_from(outbox_scheduled).scalar_subquery(),
    _set_aside(PARKED),
    _set_aside(HELD),
)


@dataclass(frozen=True, slots=True)
class KeyLocks:
    """How a database locks message keys to the end of a transaction; both statements take the list ``buckets``.

    Attributes:
        lock: waits for each bucket, in the order given.
        try_lock: returns the buckets that could be had at once.
        locked: one row, given once the bucket of the parameter ``bucket`` is locked; ``None`` where there is no such.
    """

    lock: Executable
    try_lock: Executable
    locked: FromClause | None = None


class RelationalOutboxStore(OutboxStore):
    """The outbox as producers see it."""

    def __init__(self, key_locks: KeyLocks | None, numbers: KeyNumbers) -> None:
        """Lock keys with ``key_locks``; ``None`` where the database has one writer at a time anyway."""
        self._key_locks = key_locks
        self._numbers = numbers
        locked = None if key_locks is None else key_locks.locked
        self._append_locked = None if locked is None else _append_under(locked)

    def append(self, records: Sequence[OutboxRecord]) -> Program[None]:
        """Lock the keys in sorted order, then insert, so that positions follow the order of commits."""
        due = [record for record in records if not record.due_in]
        if due:
            buckets = {record.bucket for record in due if record.message.key is not None}
            counts = any(record.numbered for record in due)
            if self._append_locked is not None and not counts and len(records) == len(due) == len(buckets) == 1:
                yield Execute(self._append_locked, {**record_values(due[0]), "bucket": min(buckets)})
                return
            if self._key_locks is not None and buckets:
                yield Execute(self._key_locks.lock, {"buckets": sorted(buckets)})
            now = [record_values(record) for record in (yield from give_numbers(due, self._numbers))]
            yield Execute(APPEND, now)
        if later := [
            {**record_values(record), "delay_us": micros(record.due_in)} for record in records if record.due_in
        ]:
            yield Execute(SCHEDULE, later)

    def state(self) -> Program[OutboxState]:
        """Count what waits."""
        pending, first_us, released, released_us, due_us, scheduled, parked, held = (yield Execute(STATE))[0]
        waited = [max(int(one), 0) for one in (first_us, released_us) if one is not None]
        if due_us is not None and due_us >= 0:
            waited.append(int(due_us))
        return OutboxState(
            pending=pending + released,
            oldest_for=timedelta(microseconds=max(waited)) if waited else None,
            scheduled=scheduled,
            parked=parked,
            held=held,
        )


class RelationalSlotReader(SlotReader):
    """The outbox as a polling relay sees it."""

    def __init__(
        self, key_locks: KeyLocks | None, *, writes_in_with: bool = False, horizon: OutboxHorizon | None = None
    ) -> None:
        """Lock the keys of scheduled records with ``key_locks`` as they take their positions.

        Args:
            key_locks: ``None`` where the database has one writer at a time anyway.
            writes_in_with: a WITH clause may delete, so that only a number need be fetched.
            horizon: how the database tells what may still appear; ``None`` where reading passes nothing removed.
        """
        self._key_locks = key_locks
        self._writes_in_with = writes_in_with
        self._horizon = horizon

    @property
    def horizon(self) -> OutboxHorizon | None:
        """How the database tells what may still appear."""
        return self._horizon

    def read(self, plan: ReadPlan) -> Program[Sequence[PendingRecord]]:
        """Read the oldest records of the plan's slots."""
        run = as_run(plan.in_flight)
        first, last = run or NO_RUN
        wanted = {
            "slots": plan.slots,
            "run_first": first,
            "run_last": last,
            "in_flight": () if run else plan.in_flight,
            "paused": plan.paused,
            "up_to": plan.limit,
            "first_position": plan.first,
        }
        return [
            PendingRecord(position=row[0], slot=row[1], held=bool(row[2]), message=message_of(row[3:]))
            for row in (yield Execute(READ, wanted))
        ]

    def settle(self, scope: str, tokens: Sequence[int], positions: Sequence[int]) -> Program[int]:
        """Delete what was published and is still ours."""
        settled: dict[str, object] = {"scope": scope, "tokens": tokens}
        if run := as_run(positions):
            removal, count = SETTLE_RUN, SETTLE_RUN_AND_COUNT
            settled |= {"run_first": run[0], "run_last": run[1]}
        else:
            removal, count = SETTLE, SETTLE_AND_COUNT
            settled["positions"] = positions
        if self._writes_in_with:  # fetches one row instead of hundreds
            return int((yield Execute(count, settled))[0][0])
        return len((yield Execute(removal, settled)))

    def settle_and_keep(self, scope: str, tokens: Sequence[int], positions: Sequence[int]) -> Program[int]:
        """Lock the leases, copy, delete."""
        owned = yield Execute(OWNED_AMONG, {"scope": scope, "tokens": tokens, "positions": positions})
        ours = {"positions": [position for position, *_ in owned]}
        if owned:
            yield Execute(KEEP, ours)
            yield Execute(REMOVE, ours)
        return len(owned)

    def put_aside(self, scope: str, tokens: Sequence[int], asides: Sequence[Aside]) -> Program[frozenset[int]]:
        """Move records into the table of held ones."""
        return put_aside(scope, tokens, asides)

    def has_beside(self, slots: Sequence[int]) -> Program[bool]:
        """Look into both tables."""
        return bool((yield Execute(HAS_BESIDE, {"slots": slots}))[0][0])

    def release_due(self, scope: str, tokens: Sequence[int], *, limit: int) -> Program[int]:
        """Move what is due; a key that a producer's open transaction has locked waits for the next pass.

        However many records of such keys are due first, those behind them are found.
        """
        names = ("due_at", "position", *RECORD_COLUMNS)
        locked = set[int]()
        after_due = after = 0
        while True:
            place = {"after_due": after_due, "after": after, "up_to": limit}
            due = yield Execute(DUE, {"scope": scope, "tokens": tokens, **place})
            rows: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in due]
            moving = yield from self._lock_keys(rows, locked)
            if moving:
                yield Execute(APPEND, [{name: row[name] for name in RECORD_COLUMNS[:-1]} for row in moving])
                yield Execute(UNSCHEDULE, {"positions": [row["position"] for row in moving]})
            if moving or len(due) < limit:
                return len(moving)
            after_due, after = rows[-1]["due_at"], rows[-1]["position"]

    def _lock_keys(self, rows: Sequence[dict[str, Any]], locked: set[int]) -> Program[list[dict[str, Any]]]:
        """Return those of ``rows`` whose keys can be locked at once; the buckets of the others join ``locked``."""
        buckets = [bucket_for(row["destination"], row["message_key"], message_id=row["id"]) for row in rows]
        free = set(buckets) - locked  # one found locked stays so: a later record must not go before an earlier one
        if self._key_locks is not None and free:
            asked = {"buckets": sorted(free)}
            free = {bucket for (bucket,) in (yield Execute(self._key_locks.try_lock, asked))}
        locked |= set(buckets) - free
        return [row for row, bucket in zip(rows, buckets, strict=True) if bucket in free]


NO_RUN = (0, -1)


def as_run(positions: Sequence[int]) -> tuple[int, int] | None:
    """Return the first and the last of ``positions`` when they leave none out, as in a backlog they do."""
    if not positions:
        return None
    first, last = min(positions), max(positions)
    return (first, last) if last - first + 1 == len(set(positions)) else None
