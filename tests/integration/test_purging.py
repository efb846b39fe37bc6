"""Purges by hand end, though what they remove grows old all the time."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pillarbox import Pillarbox
from pillarbox.app.controlling import control_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillarbox.control import Control
    from pillarbox.transaction import Program

DAY = timedelta(days=1)
LONG = 50


@pytest.fixture
async def control(sqlite_url: str) -> AsyncIterator[Control]:
    box = Pillarbox("shop", store=sqlite_url)
    await box.store.migrate()
    yield control_of(box.store)
    await box.store.close()


async def purge_inbox(control: Control) -> int:
    return sum([batch async for batch in control.inbox.purge(DAY)])


async def purge_answers(control: Control) -> int:
    return await control.calls.purge(DAY)


async def purge_letters(control: Control) -> int:
    return await control.dead_letters.purge(DAY, by="ada")


@pytest.mark.parametrize("purge", [purge_inbox, purge_answers, purge_letters])
async def test_purging_ends_though_more_grows_old_meanwhile(
    control: Control, monkeypatch: pytest.MonkeyPatch, purge: Any
) -> None:
    batches: list[int] = []

    def one_more(older_than: timedelta, *, limit: int) -> Program[int]:
        """Remove one batch that is full, then one each time that has just grown old."""
        yield from ()
        batches.append(1 if batches else limit)
        assert len(batches) < LONG, "it does not end"
        return batches[-1]

    monkeypatch.setattr(control.inbox._inbox, "purge", one_more)
    monkeypatch.setattr(control.calls._store, "purge", one_more)
    monkeypatch.setattr(control.dead_letters._ports.review, "purge", one_more)

    assert await purge(control) == sum(batches)
    assert len(batches) == 2
