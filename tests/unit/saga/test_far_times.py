"""Waits without an end in sight: what is due is kept as a number and shown as a date, and both have an end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from pillarbox import Pillarbox, Saga
from pillarbox.retry import Failure, Retry
from pillarbox.saga.definition import Kind
from pillarbox.saga.happening import Failed, Sent
from pillarbox.saga.journal import Journal
from tests.unit.saga.stage import DO, SECOND_US, OneAct, OneStep, Stages
from tests.unit.saga.standing import stands

FAR = timedelta(days=365 * 9_000)


@dataclass
class Order:
    order_id: str


@pytest.mark.parametrize("wait", [timedelta.max, FAR])
async def test_a_call_may_take_as_long_as_it_likes(wait: timedelta) -> None:
    box, fulfil = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order)

    @fulfil.step(timeout=wait)
    async def pay(state: Order) -> None: ...

    box.include(fulfil)
    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start(fulfil, Order("o-1"), saga_id="o-1", tx=tx)
        await stands(box, "fulfil", "o-1", "completed")


@pytest.mark.parametrize("wait", [timedelta.max, FAR])
@pytest.mark.parametrize("kind", [Kind.OUTSIDE, Kind.REQUEST])
def test_what_is_due_is_a_date(kind: Kind, wait: timedelta) -> None:
    shape = Stages.of(OneStep("pay", OneAct(kind, Retry(attempts=2), timeout=wait)))
    asked = Failure(kind="throttled", retry_after=wait)
    begun = shape.planned(Journal()).journal
    sent = shape.observed(begun, Sent(step="pay", direction=DO, attempt=1))

    put_off = shape.observed(sent, Failed(step="pay", direction=DO, attempt=1, error="too fast", failure=asked))

    for journal in (begun, sent, put_off):
        for progress in journal.do.values():
            assert progress.due_us is not None
            assert datetime.fromtimestamp(progress.due_us / SECOND_US, UTC).year >= 9_000
