"""What a worker has in hand when its lease or its connection is lost, and has not begun: it comes once more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.messages import message
from tests.unit.consumer.test_worker import TURN, Scene

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from pillarbox.channel import Delivery


async def test_what_was_lost_before_it_was_begun_is_not_handled_here(monkeypatch: pytest.MonkeyPatch) -> None:
    at, lost = Scene(run_size=2), set[str]()

    def still_ours(deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return [one for one in deliveries if one.message.id not in lost]

    monkeypatch.setattr(at.receiver, "still_ours", still_ours)
    gate = at.process.closed["k"] = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(at.worker.run())
        await at.send(message("m1"))
        await at.until(begun=["m1"])
        await at.send(*(message(f"m{number}") for number in range(2, 6)))
        while at.worker.in_hand < 4:
            await at.clock.sleep(TURN)
        lost |= {"m2", "m3"}
        gate.set()
        await at.until(ended=["m1", "m4", "m5"])
        while at.worker.in_hand:
            await at.clock.sleep(TURN)
        at.worker.stop()

    assert at.process.begun == ["m1", "m4", "m5"]
