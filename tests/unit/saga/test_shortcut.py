"""What the shortcut of a lone saga remembers: the row as it was written, at the present instant, and only once."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from pillarbox.consumer.effects import Returned
from pillarbox.saga.journal import SagaStatus
from pillarbox.saga.shortcut import MOST, Shortcut
from pillarbox.saga.store import ChangedSaga, SagaKey, SagaRow
from pillarbox.testing import VirtualClock

ROW = SagaRow(
    key=SagaKey("shop/fulfil", "o-1"),
    version=1,
    state="{}",
    content_type="application/json",
    journal="{}",
    correlation_id="o-1",
    serial=7,
    now_us=1_000_000_000,
)


def course(row: SagaRow, *, awaits_call: bool = True) -> Any:
    changed = ChangedSaga(
        key=row.key, version=2, status=SagaStatus.RUNNING, steps="pay", state="[1]", journal="[2]", due_us=None
    )
    return SimpleNamespace(row=row, journal=SimpleNamespace(awaits_call=awaits_call), changed=lambda: changed)


async def remembered(shortcut: Shortcut, key: SagaKey = ROW.key) -> SagaRow | None:
    """Return the row from which a saga would go on; it does not."""
    found: list[SagaRow] = []
    outcome: Any = SimpleNamespace(call=SimpleNamespace(key=key), answer=Returned(None))
    assert await shortcut.go_on([outcome], found.append) is None
    return found[0] if found else None


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def shortcut(clock: VirtualClock) -> Shortcut:
    unused: Any = None
    return Shortcut(store=unused, source=unused, clock=clock)


async def test_it_goes_on_from_what_was_written_and_now(shortcut: Shortcut, clock: VirtualClock) -> None:
    clock.advance(timedelta(seconds=100))
    shortcut.note(course(ROW), clock.monotonic() - 2)
    clock.advance(timedelta(seconds=3))

    expected = replace(ROW, version=2, state="[1]", journal="[2]", serial=8, now_us=ROW.now_us + 5_000_000)
    assert await remembered(shortcut) == expected
    assert await remembered(shortcut) is None, "whoever comes again reads it"


async def test_what_awaits_no_call_any_more_is_forgotten(shortcut: Shortcut) -> None:
    shortcut.note(course(ROW), 0)
    shortcut.note(course(ROW, awaits_call=False), 0)

    assert await remembered(shortcut) is None


async def test_only_so_many_are_remembered(shortcut: Shortcut) -> None:
    keys = [SagaKey("shop/fulfil", f"o-{number}") for number in range(MOST + 1)]
    for key in keys:
        shortcut.note(course(replace(ROW, key=key)), 0)

    assert await remembered(shortcut, keys[0]) is None
    assert await remembered(shortcut, keys[1]) is not None
