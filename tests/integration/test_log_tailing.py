"""The log tailing relay on a real PostgreSQL: what commits is published, in the order of commits, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

import pytest

from pillarbox import Pillarbox, Settings
from pillarbox.channel import Confirmed, NotReady, Refused
from pillarbox.control import HealthStatus
from pillarbox.errors import ConfigurationError
from pillarbox.observe import WorkerFaltered
from pillarbox.relay import RelaySettings
from tests.integration.boxes import OrderPlaced
from tests.integration.log_boxes import FORMS, WITHIN, LogScene, number_in, quick_relay
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox.message import Message
    from tests.servers import PostgresServer


@pytest.fixture
async def scene(postgresql_server: PostgresServer, postgresql_url: str) -> AsyncIterator[LogScene]:
    scene = LogScene(postgresql_server, postgresql_url)
    yield scene
    await scene.close()


@pytest.fixture(params=FORMS)
async def either(
    request: pytest.FixtureRequest, postgresql_server: PostgresServer, postgresql_url: str
) -> AsyncIterator[LogScene]:
    """A scene with a table, and one without."""
    scene = LogScene(postgresql_server, postgresql_url, form=request.param)
    yield scene
    await scene.close()


async def test_what_commits_is_published_in_the_order_of_commits(either: LogScene) -> None:
    async with either.relaying() as box:
        await either.until_read()
        await either.publish(1, 2, 3)
        async with box.transaction() as first, box.transaction() as second:
            await box.publish(OrderPlaced("early", 5), tx=first)
            await box.publish(OrderPlaced("late", 4), tx=second)
            await second.commit()
        await either.publish(6)
        await either.broker.until(range(1, 7))

    numbers = either.broker.numbers
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]
    assert [number for number in numbers if number in (1, 2, 3, 6)] == [1, 2, 3, 6], "one key"
    assert numbers.index(4) < numbers.index(5), "the later position committed first"
    assert either.gaps() == []
    assert either.scalar("SELECT count(*) FROM pillarbox_outbox") == "0"


async def test_what_was_committed_before_the_first_start_is_published(scene: LogScene) -> None:
    await scene.publish(*range(100), key="before")

    async with scene.relaying():
        await scene.broker.until(range(100))
        await scene.publish(100)
        await scene.broker.until([100])

    assert scene.broker.numbers == list(range(101))
    assert scene.gaps() == []


async def test_what_rolls_back_is_not_published(either: LogScene) -> None:
    async with either.relaying() as box:
        async with box.transaction() as tx:
            await box.publish(OrderPlaced("kept", 1), tx=tx)
            savepoint = await tx.begin_nested()
            await box.publish(OrderPlaced("undone", 2), tx=tx)
            await savepoint.rollback()
            inner = await tx.begin_nested()
            await box.publish(OrderPlaced("kept", 3), tx=tx)
            await inner.commit()
        async with box.transaction() as tx:
            await box.publish(OrderPlaced("undone", 4), tx=tx)
            await tx.rollback()
        await either.publish(5)
        await either.broker.until([5])

    assert sorted(either.broker.numbers) == [1, 3, 5]


async def test_concurrent_writers_keep_each_key_in_the_order_of_its_commits(either: LogScene, rng: Random) -> None:
    counts = dict.fromkeys("abcdefgh", 0)
    locks = {key: asyncio.Lock() for key in counts}

    async def write(box: Pillarbox, dice: Random) -> None:
        for _ in range(25):
            chosen = sorted(dice.sample(sorted(counts), 2))
            async with locks[chosen[0]], locks[chosen[1]], box.transaction() as tx:
                for key in chosen:
                    counts[key] += 1
                    await box.publish_all([OrderPlaced(key, counts[key])], tx=tx)

    async with either.relaying() as box:
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(write(box, Random(rng.random())))
        await wait_until(lambda: len(either.broker.taken) >= 400, WITHIN)

    for key, count in counts.items():
        numbers = [number_in(message) for message in either.broker.taken if message.key == key]
        assert numbers == list(range(1, count + 1))
    assert either.scalar("SELECT count(*) FROM pillarbox_outbox") == "0"


async def test_a_record_is_removed_though_the_log_tells_of_it_before_the_database_shows_it(scene: LogScene) -> None:
    async with scene.relaying() as box:
        for number in range(300):
            async with box.transaction() as tx:
                await box.publish(OrderPlaced(f"o-{number % 7}", number), tx=tx)
        await scene.broker.until(range(300))

    assert scene.scalar("SELECT count(*) FROM pillarbox_outbox") == "0"
    assert len(scene.broker.taken) == 300


async def test_scheduled_records_come_through_the_log_when_they_are_due(either: LogScene) -> None:
    async with either.relaying() as box:
        async with box.transaction() as tx:
            await box.publish(OrderPlaced("o-1", 2), tx=tx, delay=timedelta(milliseconds=300))
            await box.publish(OrderPlaced("o-1", 1), tx=tx)
        await either.broker.until([1, 2])

    assert either.broker.numbers == [1, 2]


async def test_a_refused_record_holds_its_key_and_leaves_in_order_once_released(either: LogScene) -> None:
    refusing = True

    def answer(message: Message) -> object:
        return Refused("too strange") if refusing and number_in(message) == 1 else Confirmed()

    either.broker.answer = answer  # type: ignore[assignment]
    async with either.relaying() as box:
        await either.publish(1, 2, key="bad")
        await either.publish(3, key="good")
        await either.broker.until([3])
        await either.publish(4, key="bad")
        held = "SELECT count(*) FROM pillarbox_outbox_held WHERE state = 'held'"
        await wait_until(lambda: either.scalar(held) == "2", WITHIN)
        assert either.broker.numbers == [3]

        refusing = False
        parked = (await box.store.run(box.store.parked.find(after=0, limit=9)))[0]
        assert await box.store.run(box.store.parked.release(parked.message.id)) == 3
        await either.broker.until([1, 2, 4])

    assert either.broker.numbers == [3, 1, 2, 4]
    assert either.scalar("SELECT count(*) FROM pillarbox_outbox_holds") == "0"


async def test_a_destination_that_is_not_ready_does_not_stop_the_others(either: LogScene) -> None:
    is_ready = False

    def answer(message: Message) -> object:
        return Confirmed() if is_ready or message.key != "waits" else NotReady("nobody listens")

    either.broker.answer = answer  # type: ignore[assignment]
    async with either.relaying():
        await either.publish(1, 2, key="waits")
        await either.publish(3, key="goes")
        await either.broker.until([3])
        assert either.broker.numbers == [3]
        is_ready = True
        await either.broker.until([1, 2])

    assert either.broker.numbers == [3, 1, 2]


async def test_the_log_of_a_busy_neighbour_is_not_kept_for_an_idle_outbox(scene: LogScene) -> None:
    neighbour = scene.server.create_database()
    name = neighbour.rpartition("/")[2]

    def confirmed() -> int:
        slot = f"SELECT confirmed_flush_lsn - '0/0'::pg_lsn FROM pg_replication_slots WHERE slot_name = '{scene.slot}'"
        return int(scene.scalar(slot))

    async with scene.relaying():
        await scene.publish(1)
        await scene.broker.until([1])
        before = confirmed()
        scene.sql("CREATE TABLE noise AS SELECT repeat('x', 500) FROM generate_series(1, 60000)", database=name)
        await wait_until(lambda: confirmed() > before + 20_000_000, WITHIN)
        await scene.publish(2)
        await scene.broker.until([2])

    assert scene.broker.numbers == [1, 2]
    assert scene.gaps() == []
    scene.server.drop_database(neighbour)


async def test_health_tells_of_a_log_that_nobody_reads(scene: LogScene) -> None:
    async with scene.relaying() as box:
        await scene.publish(1)
        await scene.until_settled()
        await scene.until_read()
        found = await box.health()
        assert found.status is HealthStatus.OK
        assert found.vitals.log is not None
        assert found.vitals.log.is_read
    await scene.until_unread()

    scene.sql("UPDATE pillarbox_outbox_checkpoint SET updated_at = 0")
    idle = scene.box()
    async with idle:
        unread = await idle.health()
        scene.sql(f"SELECT pg_drop_replication_slot('{scene.slot}')")
        gone = await idle.health()

    assert [problem.what.split(",")[0] for problem in unread.problems] == [
        f"nobody reads the replication slot {scene.slot}"
    ]
    assert gone.status is HealthStatus.UNHEALTHY


async def test_a_second_relay_waits_and_takes_over(either: LogScene) -> None:
    async with either.relaying():
        await either.publish(1)
        await either.broker.until([1])
        second = either.box()
        async with second.running(consumers=False):
            await either.publish(2)
            await either.broker.until([2])
            assert len(either.slots()) == 1
            first_reader = either.scalar("SELECT active_pid FROM pg_replication_slots")
            either_stops = either.scalar("SELECT count(DISTINCT owner) FROM pillarbox_leases WHERE scope = 'relay'")
            assert either_stops == "1"
            assert first_reader

    async with either.relaying():
        await either.publish(3)
        await either.broker.until([3])

    assert either.broker.numbers == [1, 2, 3]
    assert either.gaps() == []


async def test_another_kind_of_relay_takes_over_and_gives_back(scene: LogScene) -> None:
    polling = RelaySettings(kind="polling", lease=timedelta(seconds=3))
    async with scene.relaying():
        await scene.publish(1)
        await scene.broker.until([1])
    async with scene.relaying(polling):
        await scene.publish(2)
        await scene.broker.until([2])
        assert scene.slots() == [], "a slot that nobody reads would keep the log for ever"
    async with scene.relaying():
        await scene.publish(3)
        await scene.broker.until([3])

    assert scene.broker.numbers == [1, 2, 3]
    assert scene.gaps() == []


async def test_another_kind_of_relay_leaves_a_table_less_log_alone_until_it_is_drained(scene: LogScene) -> None:
    polling = RelaySettings(kind="polling", lease=timedelta(seconds=3))
    async with scene.relaying():
        await scene.until_read()
    await scene.until_unread()
    await scene.publish(1, box=scene.box(form="log"))

    async with scene.relaying(polling):
        await wait_until(lambda: any("table-less" in one.error for one in scene.happenings.of(WorkerFaltered)), WITHIN)
        assert len(scene.slots()) == 1
    async with scene.relaying():
        await scene.broker.until([1])
    await scene.until_unread()
    async with scene.relaying(polling):
        await scene.publish(2)
        await scene.broker.until([2])

    assert scene.broker.numbers == [1, 2]
    assert scene.slots() == []


async def test_published_records_are_kept_if_asked_for(scene: LogScene) -> None:
    keeping = replace(quick_relay(), keep=timedelta(hours=1))

    async with scene.relaying(keeping):
        await scene.publish(1, 2)
        await scene.until_settled()
        await scene.publish(3)
        await scene.until_read()
        await scene.until_settled()

    assert scene.scalar("SELECT count(*) FROM pillarbox_outbox_published") == "3"


async def test_records_of_both_forms_keep_one_order(scene: LogScene) -> None:
    async with scene.relaying():
        for number in range(0, 20, 2):
            await scene.publish(number, box=scene.box(form="table"))
            await scene.publish(number + 1, box=scene.box(form="log"))
        await scene.broker.until(range(20))

    assert scene.broker.numbers == list(range(20))


async def test_a_stopping_server_is_not_kept_waiting(private_postgresql_server: PostgresServer) -> None:
    server = private_postgresql_server
    scene = LogScene(server, server.create_database(), settings=quick_relay(lease_s=60, idle_s=3600))
    async with scene.relaying():
        await scene.publish(1)
        await scene.broker.until([1])
        await scene.until_settled()
        scene.sql("CREATE TABLE noise AS SELECT repeat('x', 500) FROM generate_series(1, 2000)")

        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        await scene.publish(2)
        await scene.broker.until([2])

    assert scene.broker.numbers == [1, 2]
    assert scene.gaps() == []
    await scene.close()


async def test_a_server_that_writes_no_such_log_is_refused_with_what_to_do(
    private_postgresql_server: PostgresServer,
) -> None:
    server = private_postgresql_server
    server.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    server.execute("ALTER SYSTEM SET wal_level = 'replica'")
    server.stop()
    server.start()
    scene = LogScene(server, server.create_database())
    try:
        async with scene.relaying():
            await wait_until(lambda: any("wal_level" in told for told in _errors(scene)), WITHIN)
    finally:
        server.execute("ALTER SYSTEM RESET wal_level")
        server.stop()
        server.start()
        await scene.close()


async def test_a_slot_of_something_else_is_left_alone(scene: LogScene) -> None:
    taken = f"SELECT pg_create_logical_replication_slot('{scene.slot}', 'test_decoding')"
    scene.sql(taken)

    async with scene.relaying():
        await wait_until(lambda: any("belongs to something else" in told for told in _errors(scene)), WITHIN)

    assert scene.slots() == [[scene.slot, "f"]]


@pytest.mark.parametrize("store", ["memory://", "sqlite://"])
async def test_a_database_without_such_a_log_is_refused(store: str) -> None:
    box = Pillarbox("shop", store=store, broker="memory://", settings=Settings(relay=RelaySettings(kind="log")))

    with pytest.raises(ConfigurationError, match="log"):
        async with box.running(consumers=False):
            pass


def test_an_outbox_in_the_log_needs_a_relay_that_reads_it(postgresql_url: str) -> None:
    with pytest.raises(ConfigurationError, match="kind"):
        Pillarbox("shop", store=postgresql_url, settings=Settings(outbox="log"))
    with pytest.raises(ConfigurationError, match="no log"):
        Pillarbox("shop", store="memory://", settings=Settings(outbox="log", relay=RelaySettings(kind="log")))
    keeping = RelaySettings(kind="log", keep=timedelta(days=1))
    with pytest.raises(ConfigurationError, match="cannot be kept"):
        Pillarbox("shop", store=postgresql_url, settings=Settings(outbox="log", relay=keeping))


def _errors(scene: LogScene) -> list[str]:
    return [str(getattr(event, "error", "")) for event in scene.happenings.events]
