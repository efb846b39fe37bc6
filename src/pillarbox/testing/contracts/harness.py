"""What an adapter supplies to be tested, and small things that the suites share."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import pytest

from pillarbox.channel import QueueStore
from pillarbox.consumer.circuits import CircuitStore
from pillarbox.consumer.positions import Gaps, Positions, SkippedStore
from pillarbox.consumer.registry import ConsumerRegistry
from pillarbox.control import Inspection
from pillarbox.deadletter import DeadLetterStore, Ports
from pillarbox.deadletter.batches import ReplayBatchStore
from pillarbox.flow import FlowPorts
from pillarbox.holding import HeldQueue, HoldingStore, WaitStore
from pillarbox.idempotency import AttemptStore, CallStore, ClaimStore, InboxStore
from pillarbox.lease import LeaseStore, LeaseTerms
from pillarbox.message import Message
from pillarbox.ordering import Kept
from pillarbox.outbox import (
    SLOTS,
    KeyNumbers,
    OutboxRecord,
    OutboxStore,
    ParkedRecords,
    PublishedRecords,
    bucket_for,
    record_of,
)
from pillarbox.relay import HeldRecords, RelayMarks, SequenceReader
from pillarbox.relay.reader import OutboxTransfer, PendingRecord, ReadPlan, SlotReader
from pillarbox.saga.locks import SagaLockStore
from pillarbox.saga.participant import ParticipationStore
from pillarbox.saga.store import SagaArchive, SagaStore
from pillarbox.testing.waiting import wait_until
from pillarbox.transaction import Execute, OpenTransaction, Program, Rows, Transaction, TransactionSource, step

T = TypeVar("T")

LONG = timedelta(minutes=5)
SHORT = timedelta(milliseconds=5)
ANY_AGE = timedelta(seconds=-1)
"""Older than this is everything: the database's clock may still show the instant at which it was written."""
EVERY_SLOT = tuple(range(SLOTS))
TOPIC = "topic:order"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreHarness:
    """A store that is open, has its tables and holds nothing; whoever supplies it closes it again.

    Attributes:
        source: where transactions begin.
        operators: what dead letters and held keys are worked on through.
        batches: the steps in which replay runs make their letters due.
        concurrent_writers: two transactions may write at the same time; rules about what they do to each other run
            only then.
    """

    source: TransactionSource
    outbox: OutboxStore
    slots: SlotReader
    transfer: OutboxTransfer
    parked: ParkedRecords
    held_records: HeldRecords
    published: PublishedRecords
    sequence: SequenceReader | None
    marks: RelayMarks
    leases: LeaseStore
    queue: QueueStore
    inbox: InboxStore
    attempts: AttemptStore
    claims: ClaimStore
    calls: CallStore
    holding: HoldingStore
    held_queue: HeldQueue
    waits: WaitStore
    dead_letters: DeadLetterStore
    operators: Ports
    batches: ReplayBatchStore
    inspection: Inspection
    circuits: CircuitStore
    flows: FlowPorts
    consumers: ConsumerRegistry
    numbers: KeyNumbers
    positions: Positions
    gaps: Gaps
    skipped: SkippedStore
    kept: Kept
    sagas: SagaStore
    saga_archive: SagaArchive
    participations: ParticipationStore
    saga_locks: SagaLockStore
    concurrent_writers: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One owner of slots of a scope.

    Attributes:
        slots: the slot of each token, in the same order.
    """

    scope: str
    tokens: tuple[int, ...]
    slots: tuple[int, ...] = ()

    @property
    def tokens_by_slot(self) -> dict[int, int]:
        """The token of each slot."""
        return dict(zip(self.slots, self.tokens, strict=True))


def needs_concurrent_writers(harness: StoreHarness) -> None:
    """Skip a rule that only a store with several writers at a time can break."""
    if not harness.concurrent_writers:
        pytest.skip("this store has one writer at a time")


def make_message(
    identity: str, key: str | None = "k", *, destination: str = TOPIC, body: bytes = b'{"order_id":"o-1"}'
) -> Message:
    """Return a small message."""
    return Message(
        id=identity,
        type="order.placed",
        destination=destination,
        key=key,
        content_type="application/json",
        headers={"source": "shop"},
        body=body,
    )


def make_record(identity: str, key: str | None = "k", *, destination: str = TOPIC) -> OutboxRecord:
    """Return the record of a small message, due at once."""
    return record_of(make_message(identity, key, destination=destination))


def keys_apart(count: int, *, destination: str = TOPIC) -> tuple[str, ...]:
    """Return keys of which no two are locked together or share a slot."""
    keys: dict[int, str] = {}
    number = 0
    while len(keys) < count:
        slot = bucket_for(destination, f"k{number}", message_id="") % SLOTS
        keys.setdefault(slot, f"k{number}")
        number += 1
    return tuple(keys.values())


def slot_of(key: str, *, destination: str = TOPIC) -> int:
    """Return the slot of a key."""
    return bucket_for(destination, key, message_id="") % SLOTS


async def take_all(harness: StoreHarness, scope: str = "relay", *, owner: str = "first") -> Tenant:
    """Lease every slot of ``scope`` to ``owner``."""
    tenancy = await harness.source.run(harness.leases.heartbeat(LeaseTerms(scope=scope, ttl=LONG), owner))
    assert len(tenancy.tokens) == SLOTS
    return Tenant(scope=scope, tokens=tuple(tenancy.tokens.values()), slots=tuple(tenancy.tokens))


def take_over(harness: StoreHarness, scope: str = "relay", *, owner: str = "first") -> Program[None]:
    """Take every slot of ``scope`` away from ``owner``, whose tokens are stale from then on."""
    yield from harness.leases.leave(LeaseTerms(scope=scope, ttl=LONG), owner)
    yield from harness.leases.heartbeat(LeaseTerms(scope=scope, ttl=LONG), "another")


async def take_stale(harness: StoreHarness, scope: str = "relay") -> Tenant:
    """Return a tenant whose slots another has taken over by now."""
    tenant = await take_all(harness, scope)
    await harness.source.run(take_over(harness, scope))
    return tenant


class _RollBack(Exception):  # noqa: N818  # not an error
    """Ends a transaction without its commit."""


@asynccontextmanager
async def rolled_back(harness: StoreHarness) -> AsyncGenerator[OpenTransaction]:
    """Begin a transaction that ends in a roll-back."""
    with suppress(_RollBack):
        async with harness.source.begin() as tx:
            yield tx
            raise _RollBack


async def let_expire(harness: StoreHarness) -> None:
    """Wait until what lasts ``SHORT`` from now is over, by the database's clock."""
    witness = LeaseTerms(scope="witness", slots=1, ttl=SHORT)
    await harness.source.run(harness.leases.heartbeat(witness, "earlier"))

    async def expired() -> bool:
        return bool((await harness.source.run(harness.leases.heartbeat(witness, "later"))).tokens)

    await wait_until(expired)
    await harness.source.run(harness.leases.leave(witness, "earlier"))
    await harness.source.run(harness.leases.leave(witness, "later"))


async def append(harness: StoreHarness, *records: OutboxRecord) -> None:
    """Append ``records`` in one committed transaction."""
    await harness.source.run(harness.outbox.append(records))


async def read_all(
    harness: StoreHarness,
    *,
    slots: Sequence[int] = EVERY_SLOT,
    in_flight: Sequence[int] = (),
    paused: Sequence[str] = (),
    limit: int = 10_000,
) -> tuple[PendingRecord, ...]:
    """Read the outbox as a relay does."""
    plan = ReadPlan(slots=slots, in_flight=in_flight, paused=paused, limit=limit)
    return tuple(await harness.source.run_single(harness.slots.read(plan)))


async def read_ids(harness: StoreHarness) -> list[str]:
    """Return the ids of all pending records, oldest first."""
    return [record.message.id for record in await read_all(harness)]


async def run_in_steps(transaction: Transaction, program: Program[T], *, between: Callable[[], Awaitable[object]]) -> T:
    """Run ``program`` in ``transaction`` and await ``between`` after each of its statements."""
    stepped = step(program)
    while isinstance(stepped, Execute):
        rows = await transaction.run(_only(stepped))
        await between()
        stepped = step(program, rows)
    return stepped.result


def _only(wanted: Execute) -> Program[Rows]:
    return (yield wanted)
