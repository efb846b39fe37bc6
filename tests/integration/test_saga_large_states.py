"""A state that MariaDB takes in no packet: it is refused as one that is too large, and other sagas go their way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Retry, Saga, SagaContext
from pillarbox.errors import InvalidMessageError
from pillarbox.message import Limits
from pillarbox.observe import WorkerFaltered
from pillarbox.saga.journal import Direction
from tests.integration.boxes import SETTINGS, make_box
from tests.integration.test_saga_runs import end_of

pytestmark = pytest.mark.server
LARGE = replace(SETTINGS, limits=Limits(max_body_bytes=50_000_000))
PAPERS = 17_000_000


@dataclass
class Order:
    order_id: str
    papers: str = ""


@pytest.mark.parametrize("step", ["in the transaction", "outside"])
async def test_a_saga_whose_state_no_packet_holds_fails_alone(mariadb_url: str, step: str) -> None:
    box, happenings = make_box(mariadb_url, settings=LARGE)
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    def grow(state: Order) -> None:
        if state.order_id == "large":
            state.papers = "x" * PAPERS

    if step == "outside":

        @saga.step(retry=Retry(attempts=1), timeout=timedelta(seconds=1))
        async def scan(state: Order, ctx: SagaContext) -> None:
            grow(state)

    else:

        @saga.step
        async def local(state: Order, tx: AsyncConnection) -> None:
            grow(state)

    box.include(saga)
    async with box.running():
        async with box.transaction() as tx:
            await box.sagas.start(saga, Order("large"), saga_id="large", tx=tx)
        async with box.transaction() as tx:
            await box.sagas.start(saga, Order("small"), saga_id="small", tx=tx)
        small = await end_of(box, "small")
        large = await end_of(box, "large")

    assert (small.summary.status, large.summary.status) == ("completed", "compensated")
    assert not happenings.of(WorkerFaltered)


async def test_a_start_with_a_state_that_no_packet_holds_is_refused_and_the_transaction_goes_on(
    mariadb_url: str,
) -> None:
    box, _ = make_box(mariadb_url, settings=LARGE)
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.step
    async def local(state: Order, tx: AsyncConnection) -> None: ...

    box.include(saga)
    async with box:
        async with box.transaction() as tx:
            with pytest.raises(InvalidMessageError, match="max_allowed_packet = 16777216"):
                await box.sagas.start(saga, Order("large", "\\" * 4_200_000), saga_id="large", tx=tx)
            await box.sagas.start(saga, Order("small"), saga_id="small", tx=tx)
        (kept,) = await box.sagas.list()

    assert kept.saga_id == "small"


async def test_many_large_states_are_started_at_once(mariadb_url: str) -> None:
    box, _ = make_box(mariadb_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.step
    async def local(state: Order, tx: AsyncConnection) -> None: ...

    box.include(saga)
    states = {f"o-{number}": Order(f"o-{number}", "x" * 900_000) for number in range(20)}
    async with box, box.transaction() as tx:
        assert len(await box.sagas.start_all(saga, states, tx=tx)) == len(states)


async def test_many_large_answers_are_kept_at_once(mariadb_url: str) -> None:
    box, _ = make_box(mariadb_url)
    answers = {f"r-{number}": '"' * 900_000 for number in range(12)}
    async with box:
        await box.store.migrate()
        await box.store.run(box.store.participations.enter("stock", list(answers)))
        await box.store.run(box.store.participations.answered("stock", Direction.DO, answers))
        known = await box.store.run(box.store.participations.enter("stock", list(answers)))

    assert {request: one.answers[Direction.DO] for request, one in known.items()} == answers
