"""The outbox in SQL: how records enter it, leave it, and are put out of the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import (
    BigInteger,
    Executable,
    String,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal,
    select,
)

from pillarbox.channel import is_queue
from pillarbox.channel.address import QUEUE
from pillarbox.outbox import OutboxRecord, OutboxState, OutboxStore, bucket_for
from pillarbox.relational.expressions import (
    any_of,
    anywhere,
    insert_into,
    micros,
    none_of,
    now_us,
    numbers,
    position_list,
    texts,
)
from pillarbox.relational.leases import is_owned
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
    queue,
    subscriptions,
)
from pillarbox.relay.reader import OutboxTransfer, PendingRecord, ReadPlan, SlotReader, Transferred
from pillarbox.transaction import Execute, Program

DELAY = bindparam("delay_us", type_=BigInteger)
AT = position_list("positions")


def _copy_of(table: Table) -> dict[str, object]:
    return {name: bindparam(name, type_=table.c[name].type) for name in RECORD_COLUMNS[:-2]}


APPEND = insert_into(outbox).values(**_copy_of(outbox), created_at=now_us())
SCHEDULE = insert_into(outbox_scheduled).values(
    **_copy_of(outbox_scheduled), created_at=now_us(), due_at=now_us() + DELAY
)

KEY_IS_HELD = exists().where(
    outbox_holds.c.destination == outbox.c.destination, outbox_holds.c.message_key == outbox.c.message_key
)
READ = (  # walks the primary key from the oldest position; the two lists are short
    select(outbox.c.position, outbox.c.slot, KEY_IS_HELD.label("held"), *record_message_columns(outbox))
    .where(
        anywhere(outbox.c.position),
        any_of(outbox.c.slot, numbers("slots")),
        none_of(outbox.c.position, position_list("in_flight")),
        none_of(outbox.c.destination, texts("paused")),
    )
    .order_by(outbox.c.position)
    .limit(bindparam("up_to", type_=BigInteger))
)
SETTLE = (  # primary key; fenced
    delete(outbox)
    .where(any_of(outbox.c.position, AT), is_owned(outbox.c.slot, locked=False))
    .returning(outbox.c.position)
)

# --- an unpublishable record and those behind it ----------------------------------------------------------------------
OWNED_AMONG = (  # primary key; fenced, and locked so that what follows in the transaction is still the owner's doing
    select(outbox.c.position, outbox.c.destination, outbox.c.message_key)
    .where(any_of(outbox.c.position, AT), is_owned(outbox.c.slot, locked=True))
    .order_by(outbox.c.position)
)
HOLD_KEY = (  # primary key; a hold that is there is locked, so that nobody releases the key before we are through
    insert_into(outbox_holds)
    .values(
        destination=bindparam("destination", type_=String), message_key=bindparam("key", type_=String), since=now_us()
    )
    .on_conflict_do_update(index_elements=["destination", "message_key"], set_={"since": outbox_holds.c.since})
)
LOCK_HOLD = (  # primary key; a release of the key waits for us, or we find it gone
    select(outbox_holds.c.destination)
    .where(
        outbox_holds.c.destination == bindparam("destination", type_=String),
        outbox_holds.c.message_key == bindparam("key", type_=String),
    )
    .with_for_update()
)
PUT_ASIDE = insert_into(outbox_held).from_select(
    ["position", *RECORD_COLUMNS, "state", "reason", "parked_at"],
    select(
        *columns(outbox, ("position", *RECORD_COLUMNS)),
        bindparam("state", type_=String),
        bindparam("reason", type_=String),
        now_us(),
    ).where(any_of(outbox.c.position, AT)),
)
REMOVE = delete(outbox).where(any_of(outbox.c.position, AT))

# --- scheduled records ------------------------------------------------------------------------------------------------
DUE = (  # index on due_at
    select(*columns(outbox_scheduled, ("position", *RECORD_COLUMNS)))
    .where(outbox_scheduled.c.due_at <= now_us(), is_owned(outbox_scheduled.c.slot, locked=True))
    .order_by(outbox_scheduled.c.due_at, outbox_scheduled.c.position)
    .limit(bindparam("up_to", type_=BigInteger))
)
UNSCHEDULE = delete(outbox_scheduled).where(any_of(outbox_scheduled.c.position, AT))

# --- the database as the broker ---------------------------------------------------------------------------------------
TRANSFERABLE = (  # walks the primary key; fenced, and locked to the end of the transaction
    select(outbox.c.position, outbox.c.destination)
    .where(
        anywhere(outbox.c.position),
        ~KEY_IS_HELD,
        any_of(outbox.c.slot, numbers("slots")),
        is_owned(outbox.c.slot, locked=True),
        none_of(outbox.c.destination, texts("paused")),
    )
    .order_by(outbox.c.position)
    .limit(bindparam("up_to", type_=BigInteger))
)
LISTENED_TO = select(subscriptions.c.channel).where(any_of(subscriptions.c.channel, texts("channels"))).distinct()
_mailbox = func.coalesce(subscriptions.c.consumer, outbox.c.destination).label("consumer")
FAN_OUT = insert_into(queue).from_select(  # positions are taken in the order of the select
    [
        "consumer",
        "message_id",
        "type",
        "channel",
        "message_key",
        "content_type",
        "headers",
        "body",
        "slot",
        "created_at",
    ],
    select(_mailbox, *record_message_columns(outbox), outbox.c.slot, outbox.c.created_at)
    .select_from(
        outbox.outerjoin(
            subscriptions,
            and_(subscriptions.c.channel == outbox.c.destination, ~outbox.c.destination.startswith(literal(QUEUE))),
        )
    )
    .where(any_of(outbox.c.position, AT))
    .order_by(outbox.c.position),
)

# --- what waits -------------------------------------------------------------------------------------------------------
_oldest = select(now_us() - outbox.c.created_at).order_by(outbox.c.position).limit(1).scalar_subquery()
STATE = select(
    select(func.count()).select_from(outbox).scalar_subquery(),
    _oldest,
    select(func.count()).select_from(outbox_scheduled).scalar_subquery(),
    select(func.count()).select_from(outbox_held).where(outbox_held.c.state == "parked").scalar_subquery(),
    select(func.count()).select_from(outbox_held).where(outbox_held.c.state == "held").scalar_subquery(),
)


@dataclass(frozen=True, slots=True)
class KeyLocks:
    """How a database locks message keys to the end of a transaction; both statements take the list ``buckets``.

    Attributes:
        lock: waits for each bucket, in the order given.
        try_lock: returns the buckets that could be had at once.
    """

    lock: Executable
    try_lock: Executable


class RelationalOutboxStore(OutboxStore):
    """The outbox as producers see it."""

    def __init__(self, key_locks: KeyLocks | None) -> None:
        """Lock keys with ``key_locks``; ``None`` where the database has one writer at a time anyway."""
        self._key_locks = key_locks

    def append(self, records: Sequence[OutboxRecord]) -> Program[None]:
        """Lock the keys in sorted order, then insert, so that positions follow the order of commits."""
        now = [record_values(record) for record in records if not record.due_in]
        if now:
            buckets = {record.bucket for record in records if not record.due_in and record.message.key is not None}
            if self._key_locks is not None and buckets:
                yield Execute(self._key_locks.lock, {"buckets": sorted(buckets)})
            yield Execute(APPEND, now if len(now) > 1 else now[0])
        if later := [
            {**record_values(record), "delay_us": micros(record.due_in)} for record in records if record.due_in
        ]:
            yield Execute(SCHEDULE, later if len(later) > 1 else later[0])

    def state(self) -> Program[OutboxState]:
        """Count what waits."""
        pending, oldest_us, scheduled, parked, held = (yield Execute(STATE))[0]
        return OutboxState(
            pending=pending,
            oldest_for=None if oldest_us is None else timedelta(microseconds=max(int(oldest_us), 0)),
            scheduled=scheduled,
            parked=parked,
            held=held,
        )


class RelationalSlotReader(SlotReader):
    """The outbox as a polling relay sees it."""

    def __init__(self, key_locks: KeyLocks | None) -> None:
        """Lock the keys of scheduled records with ``key_locks`` as they take their positions."""
        self._key_locks = key_locks

    def read(self, plan: ReadPlan) -> Program[Sequence[PendingRecord]]:
        """Read the oldest records of the plan's slots."""
        wanted = {
            "slots": plan.slots,
            "in_flight": plan.in_flight,
            "paused": plan.paused,
            "up_to": plan.limit,
        }
        return [
            PendingRecord(position=row[0], slot=row[1], held=bool(row[2]), message=message_of(row[3:]))
            for row in (yield Execute(READ, wanted))
        ]

    def settle(self, scope: str, tokens: Sequence[int], positions: Sequence[int]) -> Program[int]:
        """Delete what was published and is still ours."""
        return len((yield Execute(SETTLE, {"scope": scope, "tokens": tokens, "positions": positions})))

    def park(self, scope: str, tokens: Sequence[int], position: int, *, reason: str) -> Program[bool]:
        """Move one record out of the hot table and hold its key."""
        owned = yield Execute(OWNED_AMONG, {"scope": scope, "tokens": tokens, "positions": [position]})
        if not owned:
            return False
        _, destination, key = owned[0]
        if key is not None:
            yield Execute(HOLD_KEY, {"destination": destination, "key": key})
        yield Execute(PUT_ASIDE, {"state": "parked", "reason": reason, "positions": [position]})
        yield Execute(REMOVE, {"positions": [position]})
        return True

    def put_behind(self, scope: str, tokens: Sequence[int], positions: Sequence[int]) -> Program[int]:
        """Move records of keys whose hold still stands; the others stay and will be published."""
        owned = yield Execute(OWNED_AMONG, {"scope": scope, "tokens": tokens, "positions": positions})
        behind: list[int] = []
        for destination, key in sorted({(destination, key) for _, destination, key in owned if key is not None}):
            if (yield Execute(LOCK_HOLD, {"destination": destination, "key": key})):
                behind += [position for position, *of in owned if of == [destination, key]]
        if behind:
            yield Execute(PUT_ASIDE, {"state": "held", "reason": None, "positions": sorted(behind)})
            yield Execute(REMOVE, {"positions": sorted(behind)})
        return len(behind)

    def release_due(self, scope: str, tokens: Sequence[int], *, limit: int) -> Program[int]:
        """Move what is due; a key that a producer's open transaction has locked waits for the next pass."""
        due = yield Execute(DUE, {"scope": scope, "tokens": tokens, "up_to": limit})
        if not due:
            return 0
        names = ("position", *RECORD_COLUMNS)
        rows = [dict(zip(names, row, strict=True)) for row in due]
        buckets = {
            row["position"]: bucket_for(row["destination"], row["message_key"], message_id=row["id"]) for row in rows
        }
        free = set(buckets.values())
        if self._key_locks is not None:
            asked = {"buckets": sorted(free)}
            free = {bucket for (bucket,) in (yield Execute(self._key_locks.try_lock, asked))}
        moving = [row for row in rows if buckets[row["position"]] in free]
        if moving:
            yield Execute(APPEND, [{name: row[name] for name in RECORD_COLUMNS[:-2]} for row in moving])
            yield Execute(UNSCHEDULE, {"positions": [row["position"] for row in moving]})
        return len(moving)


class RelationalTransfer(OutboxTransfer):
    """Moves records to the consumers' queues of the same database."""

    def transfer(
        self, scope: str, tokens: Sequence[int], *, slots: Sequence[int], paused: Sequence[str], limit: int
    ) -> Program[Transferred]:
        """Choose the rows first, so that a row committed meanwhile is neither copied nor removed by half."""
        chosen = yield Execute(
            TRANSFERABLE, {"scope": scope, "tokens": tokens, "slots": slots, "paused": paused, "up_to": limit}
        )
        if not chosen:
            return Transferred(moved=0, not_ready=(), full=False)
        topics = sorted({destination for _, destination in chosen if not is_queue(destination)})
        heard = {channel for (channel,) in (yield Execute(LISTENED_TO, {"channels": topics}))} if topics else set[str]()
        not_ready = [topic for topic in topics if topic not in heard]
        positions = [position for position, destination in chosen if destination not in not_ready]
        if positions:
            yield Execute(FAN_OUT, {"positions": positions})
            yield Execute(REMOVE, {"positions": positions})
        return Transferred(moved=len(positions), not_ready=not_ready, full=len(chosen) == limit)
