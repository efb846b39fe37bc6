"""``box.health()``: true also when no relay runs, which is when it matters."""

from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Retry, Unordered
from pillarbox.app.controlling import control_of
from pillarbox.control import HealthLimits
from pillarbox.observe import MessageDead
from tests.integration.boxes import make_box, publish
from tests.integration.cli_programs.orders import OrderPlaced

IMPATIENT = HealthLimits(oldest_pending=timedelta(0))


async def test_health_sees_a_backlog_without_any_relay(sqlite_url: str) -> None:
    async with Pillarbox("shop", store=sqlite_url) as box:
        assert (await box.health()).status == "ok"
        async with box.transaction() as tx:
            await box.publish(OrderPlaced("o-1"), tx=tx)

        patient, impatient = await box.health(), await control_of(box.store).health.check(IMPATIENT)

    assert (patient.status, patient.vitals.outbox.pending) == ("ok", 1)
    assert impatient.status == "unhealthy"
    assert "is a relay running" in impatient.problems[0].what


async def test_health_is_told_by_a_process_that_never_opened_its_box(postgresql_url: str) -> None:
    opened = Pillarbox("shop", store=postgresql_url)
    await opened.migrate()
    async with opened.transaction() as tx:
        await opened.publish(OrderPlaced("o-1"), tx=tx)
    stranger = Pillarbox("billing", store=postgresql_url)

    found = await stranger.health()

    assert found.vitals.outbox.pending == 1
    for box in (opened, stranger):
        await box.store.close()


@pytest.mark.parametrize(
    "store_url",
    [
        "sqlite",
        pytest.param("postgresql+psycopg", marks=pytest.mark.server),
        pytest.param("mariadb+asyncmy", marks=pytest.mark.server),
    ],
    indirect=True,
)
async def test_a_dead_letter_that_nothing_waits_for_blocks_no_key(store_url: str) -> None:
    """It keeps a hold of its own, so that a late duplicate of it is not handled."""
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="reserve", ordering=Unordered(), retry=Retry(attempts=1))
    async def reserve(order: OrderPlaced, tx: AsyncConnection) -> None:
        raise ValueError(order.order_id)

    async with box.running():
        await publish(box, OrderPlaced("o-1"))
        await happenings.until(MessageDead)

        found = await box.health()

    assert (found.vitals.dead, found.vitals.holding.blocked, found.vitals.holding.oldest_for) == (1, 0, None)
    assert [problem.what for problem in found.problems] == ["1 dead letters: pillarbox dead-letters list"]
