"""What a log tailing relay is given again after it ended between any two steps of settling."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from pillarbox.app import SystemClock
from pillarbox.errors import LeaseLostError
from pillarbox.lease import LeaseKeeper, LeaseTerms
from pillarbox.relay import SCOPE, PendingRecord
from pillarbox.relay.log_tailing import LogTailingFeed
from tests.integration.log_boxes import FORMS, WITHIN, LogScene, number_in, quick_relay
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox import Pillarbox
    from pillarbox.relay.log_reader import LogReader
    from tests.servers import PostgresServer


class Life:
    """One life of a relay, taken step by step; it ends as a killed process does, with nothing put in order."""

    def __init__(self, box: Pillarbox, owner: str) -> None:
        store, settings = box.store, quick_relay()
        terms = LeaseTerms(scope=SCOPE, ttl=settings.lease, whole=True)
        self.keeper = LeaseKeeper(terms, owner, store=store.leases, source=store, clock=SystemClock())
        log = store.traits.log
        assert log is not None
        self.reader: LogReader = log.reader(
            source=store,
            clock=SystemClock(),
            settings=settings,
            is_wanted=lambda: True,
            on_arrival=lambda: None,
        )
        self.feed = LogTailingFeed(
            reader=self.reader,
            checkpoints=log.checkpoints,
            keeper=self.keeper,
            observer=box.observers,
            has_table=box.settings.outbox == "table",
        )

    async def given(self, count: int, *, limit: int = 100) -> list[PendingRecord]:
        """Wait for ``count`` records."""
        found: list[PendingRecord] = []

        async def enough() -> bool:
            found.extend(await self.feed.next(limit=min(limit, count - len(found))))
            return len(found) >= count

        await wait_until(enough, WITHIN)
        return found

    async def nothing_more(self) -> bool:
        """Tell whether nothing follows up to the end of the log."""

        async def seen() -> bool:
            return bool(await self.feed.next(limit=1)) or self.reader.passed_lsn is not None

        await wait_until(seen, WITHIN)
        return not await self.feed.next(limit=1)


@pytest.fixture(params=FORMS)
async def scene(
    request: pytest.FixtureRequest, postgresql_server: PostgresServer, postgresql_url: str
) -> AsyncIterator[LogScene]:
    scene = LogScene(postgresql_server, postgresql_url, form=request.param)
    async with scene.relaying():
        await scene.publish(0)
        await scene.broker.until([0])
        await scene.until_settled()
    await scene.until_unread()
    yield scene
    await scene.close()


@asynccontextmanager
async def life(scene: LogScene) -> AsyncIterator[Life]:
    """Take all slots as a new owner and go to the watermark."""
    scene.sql("UPDATE pillarbox_leases SET expires_at = 0; UPDATE pillarbox_members SET expires_at = 0")
    one = Life(scene.box(), f"life-{id(object())}")
    await one.keeper.keep()
    assert one.keeper.tokens
    await wait_until(lambda: scene.slots() == [[scene.slot, "f"]], WITHIN)
    await one.feed.open()
    try:
        yield one
    finally:
        await one.feed.close()


def numbers(records: Sequence[PendingRecord]) -> list[int]:
    return [number_in(record.message) for record in records]


async def test_what_was_confirmed_and_not_settled_is_given_again(scene: LogScene) -> None:
    await scene.publish(1, 2, 3)

    async with life(scene) as first:
        assert numbers(await first.given(3)) == [1, 2, 3]
    async with life(scene) as second:
        assert numbers(await second.given(3)) == [1, 2, 3]


async def test_what_was_settled_is_not_given_again_though_the_log_was_not_told(scene: LogScene) -> None:
    await scene.publish(1, 2, 3)

    async with life(scene) as first:
        first.reader.confirm = lambda lsn: None  # type: ignore[method-assign]  # the process ends before it tells
        await first.feed.settle(await first.given(3), [])
        await scene.publish(4)
    async with life(scene) as second:
        assert numbers(await second.given(1)) == [4]


@pytest.mark.parametrize("settled", [1, 2, 5, 9])
async def test_inside_a_transaction_only_what_was_not_settled_is_given_again(scene: LogScene, settled: int) -> None:
    await scene.publish(*range(1, 11))
    await scene.publish(11)

    async with life(scene) as first:
        await first.feed.settle((await first.given(10))[:settled], [])
    async with life(scene) as second:
        assert numbers(await second.given(11 - settled)) == list(range(settled + 1, 12))
        assert await second.nothing_more()


async def test_a_stretch_that_ends_inside_a_transaction_settles_those_before_it(scene: LogScene) -> None:
    await scene.publish(1, 2)
    await scene.publish(3, 4, 5)

    async with life(scene) as first:
        await first.feed.settle((await first.given(5))[:4], [])
    async with life(scene) as second:
        assert numbers(await second.given(1)) == [5]
        assert await second.nothing_more()


async def test_every_prefix_of_lives_publishes_everything_once_settled_stays_settled(scene: LogScene) -> None:
    await scene.publish(*range(1, 8))
    settled: list[int] = []

    while len(settled) < 7:
        async with life(scene) as one:
            records = await one.given(min(2, 7 - len(settled)))
            await one.feed.settle(records, [])
            settled += numbers(records)

    assert settled == list(range(1, 8))


async def test_one_whose_lease_was_taken_settles_nothing(scene: LogScene) -> None:
    await scene.publish(1)

    async with life(scene) as first:
        records = await first.given(1)
        scene.sql("UPDATE pillarbox_leases SET token = token + 1024")
        with pytest.raises(LeaseLostError):
            await first.feed.settle(records, [])
    async with life(scene) as second:
        assert numbers(await second.given(1)) == [1]


async def test_a_backlog_of_many_buffers_comes_whole_and_in_order(scene: LogScene) -> None:
    await scene.publish(*range(1, 2001))

    async with life(scene) as one:
        first = await one.given(1)
        await wait_until(lambda: one.reader.passed_lsn is None, WITHIN)
        rest = await one.given(1999, limit=7)

    assert numbers([*first, *rest]) == list(range(1, 2001))
