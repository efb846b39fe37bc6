"""What has come for a saga and cannot be written down: it waits, and others move on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import text

from pillarbox import Pillarbox, Retry, Saga, SagaContext
from pillarbox.observe import Event, Observer, SagaUnreadable, WorkerFaltered
from pillarbox.saga import machine, orchestrator
from pillarbox.saga.journal import decode_journal
from tests.unit.saga.standing import stands

if TYPE_CHECKING:
    import pytest

REFUSES = """
    CREATE TRIGGER refuses BEFORE UPDATE ON pillarbox_saga_instances
    WHEN NEW.journal LIKE '%poison%' BEGIN SELECT RAISE(ABORT, 'it cannot be stored'); END
"""
NO_TIME = timedelta(0)


@dataclass
class Order:
    order_id: str


class Told(Observer):
    """Keeps what it is told of sagas that wait, and counts how often the orchestrator ended."""

    def __init__(self) -> None:
        self.waits: list[SagaUnreadable] = []
        self.faltered = Counter[str]()

    def notice(self, event: Event, /) -> None:
        if isinstance(event, SagaUnreadable):
            self.waits.append(event)
        if isinstance(event, WorkerFaltered):
            self.faltered[event.worker] += 1


async def test_what_came_of_a_call_and_cannot_be_written_down_is_dropped_and_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "MARGIN", NO_TIME)  # the time of a call is over soon
    monkeypatch.setattr(orchestrator, "UNREADABLE_AGAIN", timedelta(milliseconds=100))
    box, fulfil, told = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order), Told()

    @fulfil.step(timeout=timedelta(milliseconds=50), retry=Retry(attempts=2, immediate=1))
    async def pay(state: Order, ctx: SagaContext) -> None:
        if state.order_id == "bad" and ctx.attempt == 1:
            raise ValueError("poison")

    box.include(fulfil)
    box.observe(told)
    async with box:
        async with box.transaction() as tx:
            await tx.execute(text(REFUSES))
        async with box.running():
            async with box.transaction() as tx:
                await box.sagas.start_all(fulfil, {name: Order(name) for name in ("bad", "good")}, tx=tx)
            await stands(box, "fulfil", "good", "completed")
            bad = await stands(box, "fulfil", "bad", "completed")

    assert [entry.what for entry in decode_journal(bad.journal).history] == ["failed", "done", "completed"]
    assert [(event.saga_id, "cannot be stored" in event.error) for event in told.waits] == [("bad", True)]
    assert not told.faltered
