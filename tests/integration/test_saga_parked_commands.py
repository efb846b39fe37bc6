"""A command of a saga that the broker refuses for good: its key is held, and what undoes it, until one decides."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from pillarbox import Pillarbox, Retry, Saga, command, event
from pillarbox.app.controlling import control_of
from pillarbox.app.system_clock import SystemClock
from pillarbox.brokers.memory import MemoryBroker
from pillarbox.channel import Refused, SendResult
from tests.integration.boxes import SETTINGS
from tests.integration.test_saga_runs import end_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillarbox.message import Message

BRIEF = timedelta(milliseconds=200)


@dataclass
class Order:
    order_id: str


@command("parked.reserve", queue="parked-stock", key="order_id")
@dataclass(frozen=True)
class Reserve:
    order_id: str


@command("parked.release", queue="parked-stock", key="order_id")
@dataclass(frozen=True)
class Release:
    order_id: str


@event("parked.reserved", key="order_id")
@dataclass(frozen=True)
class Reserved:
    order_id: str


@event("parked.released", key="order_id")
@dataclass(frozen=True)
class Released:
    order_id: str


class Refusing(MemoryBroker):
    """Refuses to reserve anything."""

    async def send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        taken = await super().send([one for one in messages if one.type != "parked.reserve"])
        results = iter(taken)
        return [Refused(reason="too large") if one.type == "parked.reserve" else next(results) for one in messages]


async def test_the_undo_of_a_command_that_is_parked_passes_once_that_is_skipped(sqlite_url: str) -> None:
    box = Pillarbox("shop", store=sqlite_url, broker=Refusing(clock=SystemClock()), settings=SETTINGS)
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    handled: list[object] = []

    @saga.request(replies=(Reserved,), timeout=BRIEF)
    def reserve(state: Order) -> Reserve:
        return Reserve(state.order_id)

    @reserve.compensate(replies=(Released,), timeout=BRIEF, retry=Retry(attempts=1))
    def release(state: Order) -> Release:
        return Release(state.order_id)

    @box.on(Reserve, Release, name="stock")
    async def stock(wanted: Reserve | Release) -> Reserved | Released:
        handled.append(wanted)
        return Reserved(wanted.order_id) if isinstance(wanted, Reserve) else Released(wanted.order_id)

    box.include(saga)
    async with box.running():
        async with box.transaction() as tx:
            await box.sagas.start(saga, Order("o-1"), saga_id="o-1", tx=tx)
        stopped = await end_of(box, "o-1")
        outbox = control_of(box.store).outbox
        (parked,) = await outbox.parked()
        await outbox.skip(parked.message.id, by="ada", reason="nobody takes it")

        async def is_undone() -> bool:
            return (await box.sagas.get("o-1")).summary.status == "compensated"

        await wait_until(is_undone, timedelta(seconds=20))

    assert (stopped.summary.status, parked.behind) == ("needs_attention", 1)
    assert handled == [Release("o-1")]
