"""What a running relay keeps of what it published, and removes again: with each kind of relay and store."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from pillarbox import Pillarbox, RelaySettings
from pillarbox.app.controlling import control_of
from pillarbox.app.system_clock import SystemClock
from pillarbox.brokers.memory import MemoryBroker
from pillarbox.channel import Confirmed, MessageSender, SendResult
from pillarbox.errors import ConfigurationError
from pillarbox.lease import LeaseKeeper, LeaseTerms
from pillarbox.relay.upkeep import Upkeep
from tests.integration.boxes import SETTINGS, OrderPlaced
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pillarbox.message import Message
    from pillarbox.transaction import Program

DAY = timedelta(days=1)
LONG_AGO = datetime.fromisoformat("2020-01-01T00:00:00+00:00")


class Broker(MemoryBroker):
    """Confirms everything at once and has no consumers."""

    def __init__(self) -> None:
        super().__init__(clock=SystemClock())
        self.sent: list[str] = []

    async def send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        self.sent += [message.id for message in messages]
        return [Confirmed()] * len(messages)

    def sender(self) -> MessageSender:
        return self


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def keep() -> timedelta | None:
    return None


@pytest.fixture(params=["polling", "sequence"])
async def box(request: pytest.FixtureRequest, url: str, keep: timedelta | None) -> AsyncIterator[Pillarbox]:
    relay = RelaySettings(kind=request.param, keep=keep)
    made = Pillarbox("shop", store=url, broker=Broker(), settings=replace(SETTINGS, relay=relay))
    async with made:
        yield made


async def publish(box: Pillarbox, count: int) -> None:
    """Publish orders and wait until they are sent and settled."""
    async with box.transaction() as tx:
        await box.publish_all([OrderPlaced(f"o{number % 3}", number) for number in range(count)], tx=tx)

    async def is_done() -> bool:
        return (await control_of(box.store).outbox.state()).pending == 0

    async with box.running(consumers=False):
        await wait_until(is_done)


def sent(box: Pillarbox) -> list[str]:
    assert isinstance(box.broker, Broker)
    return box.broker.sent


@pytest.mark.parametrize("keep", [DAY], ids=["a-day"])
async def test_what_is_kept_can_be_published_once_more(box: Pillarbox) -> None:
    await publish(box, 10)
    first = list(sent(box))
    control = control_of(box.store).outbox
    chosen = await control.choose_kept(since=LONG_AGO)

    assert chosen.count == 10
    assert sum([batch async for batch in control.republish(chosen, by="ann", reason="it lost them")]) == 10
    await publish(box, 0)

    assert sorted(sent(box)[10:]) == sorted(first)
    assert (await control.choose_kept(since=LONG_AGO)).count == 10, "they are kept again"


@pytest.mark.parametrize("keep", [timedelta.max])
async def test_what_is_kept_for_ever_stays_and_the_relay_works_on(box: Pillarbox) -> None:
    await publish(box, 2)

    assert (await control_of(box.store).outbox.choose_kept(since=LONG_AGO)).count == 2


async def test_without_keep_nothing_is_left(box: Pillarbox) -> None:
    await publish(box, 10)
    terms = LeaseTerms(scope="relay", ttl=DAY, whole=True)
    keeper = LeaseKeeper(terms, "caretaker", store=box.store.leases, source=box.store, clock=SystemClock())
    await keeper.keep()

    upkeep = Upkeep(
        published=box.store.published,
        partitions=box.store.traits.partitions,
        keeper=keeper,
        settings=box.settings.relay,
    )
    await upkeep.step()

    with pytest.raises(ConfigurationError, match="keep"):
        await control_of(box.store).outbox.choose_kept(since=LONG_AGO)


@pytest.mark.parametrize("keep", [DAY], ids=["a-day"])
async def test_what_is_kept_long_enough_is_purged(box: Pillarbox) -> None:
    await publish(box, 10)
    control = control_of(box.store).outbox

    assert await control.count_older(DAY) == 0
    assert await control.purge(DAY) == 0
    assert (await control.count_older(timedelta(0)), await control.purge(timedelta(0))) == (10, 10)
    with pytest.raises(ConfigurationError, match="keep"):
        await control.choose_kept(since=LONG_AGO)


@pytest.mark.parametrize("keep", [DAY])
async def test_a_time_that_ends_before_it_begins_is_refused(box: Pillarbox) -> None:
    await publish(box, 1)

    with pytest.raises(ConfigurationError, match="no later than"):
        await control_of(box.store).outbox.choose_kept(since=LONG_AGO, until=LONG_AGO)


@pytest.mark.parametrize("keep", [DAY])
async def test_purging_ends_though_records_grow_old_meanwhile(box: Pillarbox, monkeypatch: pytest.MonkeyPatch) -> None:
    await publish(box, 3)
    outbox = control_of(box.store).outbox
    purge, batches = outbox._published.purge, list[int]()

    def one_at_a_time(older_than: timedelta, *, limit: int) -> Program[int]:
        """Find one more record that has just grown old."""
        batches.append((yield from purge(older_than, limit=min(limit, 1))))
        return batches[-1]

    monkeypatch.setattr(outbox._published, "purge", one_at_a_time)

    assert await outbox.purge(timedelta(0)) == 1
    assert batches == [1]
