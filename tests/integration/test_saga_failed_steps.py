"""What a saga leaves behind of a step that failed after it had written, and of a saga that cannot be read."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import BigInteger, Column, MetaData, Table, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Alert, Pillarbox, Retry, Saga, SagaContext, StepFailed
from pillarbox.observe import Event, Observer, SagaUnreadable
from pillarbox.relational.saga_tables import saga_instances
from tests.waiting import wait_until

SOON = timedelta(seconds=20)
TWICE = Retry(attempts=2, immediate=1)

tables = MetaData()
written = Table("saga_test_written", tables, Column("attempt", BigInteger, nullable=False))


@dataclass
class Order:
    order_id: str
    cents: int = 0


class Unreadables(Observer):
    """Counts what it is told of sagas that cannot be read."""

    def __init__(self) -> None:
        self.counted = Counter[str]()

    def notice(self, event: Event, /) -> None:
        if isinstance(event, SagaUnreadable):
            self.counted[event.saga_id] += 1


async def status(box: Pillarbox, saga_id: str = "o-1") -> str:
    """Where a saga stands."""
    return (await box.sagas.get(saga_id)).summary.status.value


async def test_a_step_whose_answer_does_not_fit_leaves_nothing_of_its_writes() -> None:
    box, fulfil = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order)

    @fulfil.step(retry=TWICE)
    async def write(state: Order, tx: AsyncConnection, ctx: SagaContext) -> object:
        await tx.execute(written.insert().values(attempt=ctx.attempt))
        return "no order"

    box.include(fulfil)
    async with box, box.running():
        async with box.transaction() as tx:
            await tx.run_sync(tables.create_all)
            await box.sagas.start(fulfil, Order("o-1"), saga_id="o-1", tx=tx)

        async def ended() -> bool:
            return await status(box) == "compensated"

        await wait_until(ended, SOON)
        async with box.transaction() as tx:
            rows = (await tx.execute(select(func.count()).select_from(written))).scalar_one()
        journal = (await box.sagas.get("o-1")).journal

    assert rows == 0
    assert "InvalidReturnError" in journal


async def test_an_undo_that_is_refused_after_it_may_have_happened_is_not_taken_for_done() -> None:
    box, fulfil = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order)

    @fulfil.step
    async def pay(state: Order) -> None:
        """Pay."""

    @pay.compensate(retry=Retry(attempts=5, immediate=4))
    async def refund(state: Order, ctx: SagaContext) -> None:
        if ctx.attempt == 1:
            raise TimeoutError("it may have happened")
        raise StepFailed("the account is closed")

    @fulfil.step
    async def ship(state: Order) -> None:
        raise StepFailed("no truck")

    box.include(fulfil)
    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start(fulfil, Order("o-1"), saga_id="o-1", tx=tx)

        async def stands() -> bool:
            return await status(box) in ("compensated", "needs_attention")

        await wait_until(stands, SOON)

        assert await status(box) == "needs_attention"


async def test_sagas_that_cannot_be_read_hold_nobody_up_and_are_told_of_now_and_then() -> None:
    box, fulfil, told = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order), Unreadables()

    @fulfil.step
    async def write(state: Order) -> None:
        """Do nothing."""

    box.include(fulfil)
    box.observe(told)
    broken = [f"broken-{number}" for number in range(3)]
    async with box:
        async with box.transaction() as tx:
            await box.sagas.start_all(fulfil, {saga_id: Order(saga_id) for saga_id in broken}, tx=tx)
            await tx.execute(update(saga_instances).values(data='{"order_id": 7}'))
        async with box.running():
            for number in range(5):
                async with box.transaction() as tx:
                    await box.sagas.start(fulfil, Order(f"o-{number}"), saga_id=f"o-{number}", tx=tx)

                async def ended(saga_id: str = f"o-{number}") -> bool:
                    return await status(box, saga_id) == "completed"

                await wait_until(ended, SOON)
            assert [await status(box, saga_id) for saga_id in broken] == ["running"] * 3

    assert dict(told.counted) == dict.fromkeys(broken, 1)


async def test_a_saga_that_needs_attention_is_alerted_after_that_is_durable_and_once() -> None:
    box, fulfil = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order)
    told: list[tuple[Alert, str]] = []

    @fulfil.step(pivot=True)
    async def pay(state: Order) -> None:
        """Pay."""

    @fulfil.step(retry=Retry(attempts=1))
    async def ship(state: Order) -> None:
        raise ConnectionError(f"no truck for {state.order_id}")

    async def tell(alert: Alert) -> None:
        told.append((alert, await status(box, "o-1")))

    box.include(fulfil)
    box.alert_to(tell)
    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start_all(fulfil, {saga_id: Order(saga_id) for saga_id in ("o-1", "o-2")}, tx=tx)

        async def stands() -> bool:
            return bool(told) and {await status(box, saga_id) for saga_id in ("o-1", "o-2")} == {"needs_attention"}

        await wait_until(stands, SOON)
        health = await box.health()

    ((alert, then),) = told
    assert (alert.rule, alert.subject, then) == ("saga-needs-attention", "shop/fulfil", "needs_attention")
    assert "o-1" not in f"{alert.text} {alert.facts}"
    assert health.status == "degraded"
    assert health.problems[0].what.startswith("2 sagas need attention")


async def test_what_a_step_passes_over_is_no_failure_of_other_sagas(migrated_postgresql_url: str) -> None:
    """PostgreSQL takes nothing more in a transaction in which a statement has failed."""
    box, fulfil = Pillarbox("shop", store=migrated_postgresql_url), Saga("fulfil", state=Order)

    @fulfil.step(retry=Retry(attempts=1))
    async def write(state: Order, tx: AsyncConnection, ctx: SagaContext) -> None:
        with suppress(IntegrityError):
            await tx.execute(written.insert().values(attempt=None if state.cents else ctx.attempt))

    box.include(fulfil)
    async with box, box.running():
        async with box.transaction() as tx:
            await tx.run_sync(tables.create_all)
            states = {f"o-{number}": Order(f"o-{number}", cents=number % 2) for number in range(8)}
            await box.sagas.start_all(fulfil, states, tx=tx)

        async def ended() -> bool:
            return all([await status(box, saga_id) in ("completed", "compensated") for saga_id in states])

        await wait_until(ended, SOON)
        found = {saga_id: await status(box, saga_id) for saga_id in states}
        async with box.transaction() as tx:
            rows = (await tx.execute(select(func.count()).select_from(written))).scalar_one()

    assert found == {saga_id: "compensated" if state.cents else "completed" for saga_id, state in states.items()}
    assert rows == 4
