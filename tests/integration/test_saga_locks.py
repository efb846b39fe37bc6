"""Semantic locks of sagas in a running box: how long they last, who waits, and who gives up."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from sqlalchemy import BigInteger, Column, Connection, MetaData, String, Table, exists, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Retry, Saga, SagaContext, StepFailed
from pillarbox.idempotency import update_if_version
from pillarbox.idempotency.outcomes import Write
from pillarbox.observe import Event, Observer, SagaStepFailed
from pillarbox.relational.saga_tables import saga_instances, saga_locks
from pillarbox.saga import ResourceLocked
from tests.waiting import wait_until

SOON = timedelta(seconds=30)
SHORT = timedelta(milliseconds=5)
PATIENT = Retry(attempts=200, immediate=0, first=timedelta(milliseconds=20), factor=1.0)
UNTIRING = Retry(attempts=10_000, immediate=0, first=timedelta(milliseconds=20), factor=1.0)
HASTY = Retry(attempts=3, immediate=0, first=timedelta(milliseconds=20), factor=1.0)

tables = MetaData()
accounts = Table(
    "saga_lock_accounts",
    tables,
    Column("name", String(40), primary_key=True),
    Column("cents", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)


@dataclass
class Transfer:
    source: str
    target: str
    version: int = 0


@dataclass
class Gate:
    """Holds sagas up between two steps until the test lets them on."""

    is_open: bool = False
    waited: set[str] = field(default_factory=set[str])

    def pass_through(self, saga_id: str) -> None:
        """Let a saga on, or have it come back later."""
        self.waited.add(saga_id)
        if not self.is_open:
            raise ConnectionError("not yet")


class Failures(Observer):
    """Counts failed attempts by saga and step."""

    def __init__(self) -> None:
        self.counted = Counter[tuple[str, str]]()

    def notice(self, event: Event, /) -> None:
        if isinstance(event, SagaStepFailed):
            self.counted[event.saga_id, event.step] += 1


async def statuses(box: Pillarbox) -> dict[str, str]:
    """Where every saga stands."""
    return {one.saga_id: one.status.value for one in await box.sagas.list()}


async def holder(box: Pillarbox, resource: str) -> str | None:
    """Which saga holds a lock."""
    async with box.transaction() as tx:
        found = await box.sagas.locks.holder(resource, tx=tx)
    return None if found is None else found.saga_id


@asynccontextmanager
async def running(box: Pillarbox) -> AsyncIterator[Pillarbox]:
    """The box at work, with the accounts a and b."""
    async with box:
        async with box.transaction() as tx:
            await tx.run_sync(tables.drop_all)
            await tx.run_sync(tables.create_all)
            await tx.execute(accounts.insert(), [{"name": name, "cents": 100, "version": 1} for name in "ab"])
        async with box.running():
            yield box


def locking(gate: Gate, *, retry: Retry = PATIENT, name: str = "transfer") -> Saga[Transfer]:
    """A saga that locks its source, waits at the gate, and locks its target."""
    transfer = Saga(name, state=Transfer)

    @transfer.step(retry=retry)
    async def lock_source(state: Transfer, tx: AsyncConnection, ctx: SagaContext) -> None:
        assert not await ctx.lock(f"account:{state.source}", tx=tx)

    @lock_source.compensate
    async def unlock(state: Transfer, tx: AsyncConnection, ctx: SagaContext) -> None:
        assert await ctx.lock(f"account:{state.source}", tx=tx)

    @transfer.step(retry=PATIENT)
    async def wait(state: Transfer, ctx: SagaContext) -> None:
        gate.pass_through(ctx.saga_id)

    @transfer.step(retry=retry)
    async def lock_target(state: Transfer, tx: AsyncConnection, ctx: SagaContext) -> None:
        await ctx.lock(f"account:{state.target}", tx=tx)

    return transfer


async def test_a_lock_lasts_until_its_saga_ends(store_url: str) -> None:
    gate = Gate()
    box = Pillarbox("bank", store=store_url)
    saga = locking(gate)
    box.include(saga)
    await box.migrate()

    async with running(box):
        async with box.transaction() as tx:
            await box.sagas.start(saga, Transfer("a", "b"), saga_id="t-1", tx=tx)
        await wait_until(lambda: "t-1" in gate.waited, SOON)
        meanwhile = await holder(box, "account:a"), await holder(box, "account:b")
        gate.is_open = True

        async def ended() -> bool:
            async with box.transaction() as tx:
                row = await tx.execute(select(saga_instances.c.state, exists(select(saga_locks.c.resource))))
            state, is_locked = row.one()
            assert bool(is_locked) is (state == "running"), "the lock is let go with the saga's last change"
            return not is_locked

        await wait_until(ended, SOON)
        after = await holder(box, "account:a"), await holder(box, "account:b")

    assert meanwhile == ("t-1", None)
    assert after == (None, None)


async def test_two_who_wait_for_each_other_come_to_an_end(store_url: str) -> None:
    gate = Gate()
    box, failures = Pillarbox("bank", store=store_url), Failures()
    patient, hasty = locking(gate), locking(gate, retry=HASTY, name="hasty-transfer")
    box.include(patient)
    box.include(hasty)
    box.observe(failures)
    await box.migrate()

    async with running(box):
        async with box.transaction() as tx:
            await box.sagas.start(patient, Transfer("a", "b"), saga_id="patient", tx=tx)
            await box.sagas.start(hasty, Transfer("b", "a"), saga_id="hasty", tx=tx)
        await wait_until(lambda: gate.waited == {"patient", "hasty"}, SOON)
        gate.is_open = True
        await wait_until(lambda: statuses_are(box, {"patient": "completed", "hasty": "compensated"}), SOON)
        left = [await holder(box, f"account:{name}") for name in "ab"]
        details = await box.sagas.get("hasty")

    assert left == [None, None]
    assert failures.counted["hasty", "lock_target"] == HASTY.attempts
    assert "'account:a' is locked by bank/transfer patient for" in details.journal


async def statuses_are(box: Pillarbox, expected: dict[str, str]) -> bool:
    """Whether every saga stands where it is expected."""
    return await statuses(box) == expected


async def test_a_step_may_refuse_instead_of_waiting() -> None:
    box = Pillarbox("bank", store="memory://")
    gate = Gate(is_open=True)
    first, brisk = locking(Gate()), Saga("brisk", state=Transfer)

    @brisk.step
    async def lock(state: Transfer, tx: AsyncConnection, ctx: SagaContext) -> None:
        gate.waited.add(ctx.saga_id)
        try:
            await ctx.lock(f"account:{state.source}", tx=tx)
        except ResourceLocked as locked:
            raise StepFailed(f"{locked.resource} is busy") from locked

    box.include(first)
    box.include(brisk)
    async with running(box):
        async with box.transaction() as tx:
            await box.sagas.start(first, Transfer("a", "b"), saga_id="first", tx=tx)
        await wait_until(lambda: held_by(box, "account:a", "first"), SOON)
        async with box.transaction() as tx:
            await box.sagas.start(brisk, Transfer("a", "b"), saga_id="second", tx=tx)

        await wait_until(lambda: statuses_are(box, {"first": "running", "second": "compensated"}), SOON)
        assert await holder(box, "account:a") == "first"
        details = await box.sagas.get("second")

    assert "StepFailed: account:a is busy" in details.journal


async def held_by(box: Pillarbox, resource: str, saga_id: str) -> bool:
    """Whether a saga holds a lock."""
    return await holder(box, resource) == saga_id


async def test_whoever_goes_on_after_its_lock_expired_learns_it_and_overwrites_nothing() -> None:
    box, gate, seen = Pillarbox("bank", store="memory://"), Gate(), dict[str, object]()
    slow, quick = Saga("slow", state=Transfer), Saga("quick", state=Transfer)

    @slow.step
    async def look(state: Transfer, tx: AsyncConnection, ctx: SagaContext) -> None:
        await ctx.lock("account:a", tx=tx, expires_after=SHORT)
        state.version = (await tx.execute(select(accounts.c.version).where(accounts.c.name == "a"))).scalar_one()

    @slow.step(retry=PATIENT)
    async def stand_still(state: Transfer, ctx: SagaContext) -> None:
        gate.pass_through(ctx.saga_id)

    @slow.step
    async def write(state: Transfer, tx: AsyncConnection, ctx: SagaContext) -> None:
        seen["was held"] = await ctx.lock("account:a", tx=tx)
        written = await update_if_version(
            tx, accounts, {"cents": 0, "version": state.version + 1}, key={"name": "a"}, expected=state.version
        )
        seen["write"] = written.outcome
        if written.stale:
            raise StepFailed("the account has changed meanwhile")

    @quick.step(retry=PATIENT)
    async def change(state: Transfer, tx: AsyncConnection, ctx: SagaContext) -> None:
        await ctx.lock("account:a", tx=tx)
        await tx.execute(accounts.update().where(accounts.c.name == "a").values(cents=70, version=2))

    box.include(slow)
    box.include(quick)
    async with running(box):
        async with box.transaction() as tx:
            await box.sagas.start(slow, Transfer("a", "b"), saga_id="slow", tx=tx)
        await wait_until(lambda: bool(gate.waited), SOON)
        async with box.transaction() as tx:
            await box.sagas.start(quick, Transfer("a", "b"), saga_id="quick", tx=tx)
        await wait_until(lambda: statuses_are(box, {"slow": "running", "quick": "completed"}), SOON)
        gate.is_open = True
        await wait_until(lambda: statuses_are(box, {"slow": "compensated", "quick": "completed"}), SOON)
        async with box.transaction() as tx:
            cents = (await tx.execute(select(accounts.c.cents).where(accounts.c.name == "a"))).scalar_one()

    assert seen == {"was held": False, "write": Write.STALE}
    assert cents == 70


async def test_who_waits_for_a_lock_disturbs_no_other_saga() -> None:
    box, calls = Pillarbox("bank", store="memory://"), Counter[str]()
    waiting, busy = Saga("waiting", state=Transfer), Saga("busy", state=Transfer)

    @waiting.step(retry=PATIENT)
    async def lock(state: Transfer, tx: AsyncConnection, ctx: SagaContext) -> None:
        calls[ctx.saga_id] += 1
        await ctx.lock("account:a", tx=tx)

    @busy.step
    async def write(state: Transfer, tx: AsyncConnection, ctx: SagaContext) -> None:
        calls[ctx.saga_id] += 1
        await tx.execute(accounts.update().where(accounts.c.name == "b").values(cents=accounts.c.cents + 1))

    first = locking(Gate())
    box.include(first)
    box.include(waiting)
    box.include(busy)
    async with running(box):
        async with box.transaction() as tx:
            await box.sagas.start(first, Transfer("a", "b"), saga_id="first", tx=tx)
        await wait_until(lambda: held_by(box, "account:a", "first"), SOON)
        async with box.transaction() as tx:
            ids = [f"busy-{number}" for number in range(20)]
            await box.sagas.start_all(busy, {saga_id: Transfer("a", "b") for saga_id in ids}, tx=tx)
            await box.sagas.start(waiting, Transfer("a", "b"), saga_id="busy-21", tx=tx)
        await wait_until(lambda: calls["busy-21"] > 3, SOON)
        await wait_until(lambda: ended(box, ids), SOON)
        assert await box.sagas.list("waiting", status="running")

    assert {saga_id: calls[saga_id] for saga_id in ids} == dict.fromkeys(ids, 1)


async def ended(box: Pillarbox, ids: list[str]) -> bool:
    """Whether these sagas have completed."""
    found = await statuses(box)
    return all(found[saga_id] == "completed" for saga_id in ids)


async def test_plain_functions_lock_too() -> None:
    box, seen = Pillarbox("bank", store="memory://"), list[bool]()
    plain = Saga("plain", state=Transfer)

    @plain.step
    def lock(state: Transfer, tx: Connection, ctx: SagaContext) -> None:
        seen.append(ctx.lock_sync("account:a", tx=tx))
        seen.append(box.sagas.locks.holder_sync("account:a", tx=tx) is not None)
        seen.append(ctx.lock_sync("account:a", tx=tx))

    box.include(plain)
    async with running(box):
        async with box.transaction() as tx:
            await box.sagas.start(plain, Transfer("a", "b"), saga_id="t-1", tx=tx)
        await wait_until(lambda: statuses_are(box, {"t-1": "completed"}), SOON)
        assert await holder(box, "account:a") is None

    assert seen == [False, True, True]


@pytest.mark.parametrize(("resource", "lasting"), [("", timedelta(hours=1)), ("account:a", timedelta(0))])
async def test_a_lock_on_nothing_or_for_no_time_is_refused(resource: str, lasting: timedelta) -> None:
    box = Pillarbox("bank", store="memory://")
    wrong = Saga("wrong", state=Transfer)

    @wrong.step(retry=Retry(attempts=1))
    async def lock(state: Transfer, tx: AsyncConnection, ctx: SagaContext) -> None:
        await ctx.lock(resource, tx=tx, expires_after=lasting)

    box.include(wrong)
    async with running(box):
        async with box.transaction() as tx:
            await box.sagas.start(wrong, Transfer("a", "b"), saga_id="t-1", tx=tx)
        await wait_until(lambda: statuses_are(box, {"t-1": "compensated"}), SOON)

        assert "ConfigurationError: a lock" in (await box.sagas.get("t-1")).journal


async def test_a_lock_may_last_as_long_as_its_saga_does(store_url: str) -> None:
    box = Pillarbox("bank", store=store_url)
    saga, gate = Saga("patient", state=Transfer), Gate()

    @saga.step
    async def lock(state: Transfer, tx: AsyncConnection, ctx: SagaContext) -> None:
        await ctx.lock("account:a", tx=tx, expires_after=timedelta.max)

    @saga.step(retry=PATIENT)
    async def wait(state: Transfer, ctx: SagaContext) -> None:
        gate.pass_through(ctx.saga_id)

    box.include(saga)
    async with running(box):
        async with box.transaction() as tx:
            await box.sagas.start(saga, Transfer("a", "b"), saga_id="t-1", tx=tx)
        await wait_until(lambda: "t-1" in gate.waited, SOON)
        held = await holder(box, "account:a")
        gate.is_open = True
        await wait_until(lambda: statuses_are(box, {"t-1": "completed"}), SOON)

    assert held is not None


async def test_a_step_without_a_transaction_takes_no_lock_that_nobody_would_let_go() -> None:
    box = Pillarbox("bank", store="memory://")
    wrong = Saga("wrong", state=Transfer)

    @wrong.step(retry=Retry(attempts=1))
    async def lock(state: Transfer, ctx: SagaContext) -> None:
        async with box.transaction() as tx:
            await ctx.lock("account:a", tx=tx)

    box.include(wrong)
    async with running(box):
        async with box.transaction() as tx:
            await box.sagas.start(wrong, Transfer("a", "b"), saga_id="t-1", tx=tx)
        await wait_until(lambda: statuses_are(box, {"t-1": "compensated"}), SOON)

        assert "the step's own transaction" in (await box.sagas.get("t-1")).journal
        assert await holder(box, "account:a") is None


async def test_what_is_read_under_a_lock_is_not_overwritten_by_others(store_url: str, rng: random.Random) -> None:
    """Two boxes, sagas that read, compute outside and write what they have computed: nothing is lost."""
    saga = Saga("add", state=Transfer)

    @saga.step(retry=UNTIRING)
    async def look(state: Transfer, tx: AsyncConnection, ctx: SagaContext) -> None:
        await ctx.lock(f"account:{state.source}", tx=tx)
        await ctx.lock(f"account:{state.target}", tx=tx)
        state.version = (await tx.execute(select(accounts.c.cents).where(accounts.c.name == "a"))).scalar_one()

    @saga.step
    async def compute(state: Transfer) -> None:
        state.version += 1

    @saga.step
    async def write(state: Transfer, tx: AsyncConnection, ctx: SagaContext) -> None:
        await tx.execute(accounts.update().where(accounts.c.name == "a").values(cents=state.version))

    boxes = [Pillarbox("bank", store=store_url) for _ in range(1 if store_url == "memory://" else 2)]
    for box in boxes:
        box.include(saga)
    await boxes[0].migrate()
    ids = [f"t-{number}" for number in range(8)]

    async with running(boxes[0]) as box, AsyncExitStack() as others:
        for other in boxes[1:]:
            await others.enter_async_context(other.running())
        async with box.transaction() as tx:
            states = {saga_id: Transfer(*rng.sample("ab", 2)) for saga_id in ids}
            await box.sagas.start_all(saga, states, tx=tx)
        await wait_until(lambda: ended(box, ids), SOON)
        async with box.transaction() as tx:
            cents = (await tx.execute(select(accounts.c.cents).where(accounts.c.name == "a"))).scalar_one()
            left = (await tx.execute(select(func.count()).select_from(saga_locks))).scalar_one()

    assert (cents, left) == (100 + len(ids), 0)
