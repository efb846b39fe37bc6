"""The outbox in partitions on PostgreSQL: made ahead, dropped whole, and never with a record that is wanted."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url, text

from pillarbox.app.system_clock import SystemClock
from pillarbox.errors import ConflictError
from pillarbox.lease import LeaseKeeper, LeaseTerms
from pillarbox.outbox import SLOTS, OutboxPartitions, record_of
from pillarbox.relay import RelaySettings
from pillarbox.relay.reader import Aside
from pillarbox.relay.upkeep import Upkeep
from pillarbox.stores.postgresql import postgresql_store
from pillarbox.testing.contracts.harness import Tenant, make_message
from pillarbox.testing.contracts.sequence_reader import SequenceWalk, begin_walk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillarbox.relational import RelationalStore

ROWS = 100
NOW = timedelta(0)
COUNTS = text("SELECT tableoid::regclass::text, count(*) FROM pillarbox_outbox GROUP BY 1")

TUPLES = text(
    "SELECT sum(n_dead_tup), (SELECT count(*) FROM pillarbox_outbox) FROM pg_stat_user_tables"
    " WHERE relname = 'pillarbox_outbox' OR relname ~ '^pillarbox_outbox_(default|[0-9]+_[0-9]+)$'"
)
TEN_THOUSAND = text(
    "INSERT INTO pillarbox_outbox (id, aggregate_type, aggregate_id, event_type, payload, content_type, headers,"
    " destination, message_key, slot, created_at) SELECT 'm' || n, 'order', 'k', 'order.placed', '\\x00',"
    " 'application/json', '{}', 'topic:order', 'k' || n % 100, n % 64, n FROM generate_series(1, 10000) AS n"
)


@pytest.fixture
async def store(postgresql_url: str) -> AsyncIterator[RelationalStore]:
    made = postgresql_store(make_url(postgresql_url))
    await made.migrate()
    yield made
    await made.close()


@pytest.fixture
def partitions(store: RelationalStore) -> OutboxPartitions:
    assert store.traits.partitions is not None
    return store.traits.partitions


async def walk_of(store: RelationalStore) -> SequenceWalk:
    tenancy = await store.run(store.leases.heartbeat(LeaseTerms(scope="relay", ttl=timedelta(minutes=5)), "me"))
    assert len(tenancy.tokens) == SLOTS
    tenant = Tenant(scope="relay", tokens=tuple(tenancy.tokens.values()), slots=tuple(tenancy.tokens))
    return await begin_walk(_Harness(store), tenant)  # type: ignore[arg-type]  # what a walk needs of a harness


class _Harness:
    def __init__(self, store: RelationalStore) -> None:
        self.source = store
        self.sequence = store.traits.sequence


async def append(store: RelationalStore, first: int, count: int) -> None:
    records = [record_of(make_message(f"m{number}", f"k{number % 7}")) for number in range(first, first + count)]
    await store.run(store.outbox.append(records))


async def counts(store: RelationalStore) -> dict[str, int]:
    async with store.begin() as tx:
        return {str(name): int(number) for name, number in await tx.connection.execute(COUNTS)}


async def drop_all(store: RelationalStore, partitions: OutboxPartitions, older_than: timedelta = NOW) -> list[str]:
    found = await store.run(partitions.find_droppable(older_than))
    return [one.name for one in found if await store.run(partitions.drop(one))]


async def fill(store: RelationalStore, partitions: OutboxPartitions) -> SequenceWalk:
    """Have 9 rows by default, 100 in a partition, and 40 in the one after it."""
    assert await store.run(partitions.extend(ROWS))
    assert not await store.run(partitions.extend(ROWS)), "one full partition lies ahead"
    await append(store, 0, 12)
    assert await store.run(partitions.extend(ROWS))
    await append(store, 12, 137)
    return await walk_of(store)


async def test_records_go_to_the_partition_made_for_their_positions(
    store: RelationalStore, partitions: OutboxPartitions
) -> None:
    await fill(store, partitions)

    assert await counts(store) == {
        "pillarbox_outbox_default": 9,
        "pillarbox_outbox_10_110": 100,
        "pillarbox_outbox_110_210": 40,
    }


async def test_a_partition_is_dropped_once_all_in_it_is_published(
    store: RelationalStore, partitions: OutboxPartitions
) -> None:
    walk = await fill(store, partitions)
    assert await drop_all(store, partitions) == []
    assert await walk.settle(await walk.read(limit=108))
    assert await drop_all(store, partitions) == [], "position 109 is not published"

    assert await walk.settle(await walk.read(limit=1))

    assert await drop_all(store, partitions) == ["pillarbox_outbox_10_110"]
    assert len(await walk.publish()) == 40
    assert await drop_all(store, partitions) == [], "positions of the last one are still being handed out"


async def test_a_transaction_that_is_open_keeps_its_partition(
    store: RelationalStore, partitions: OutboxPartitions
) -> None:
    assert await store.run(partitions.extend(ROWS))
    await append(store, 0, 20)
    assert await store.run(partitions.extend(ROWS))
    async with store.begin() as tx:
        await tx.run(store.outbox.append([record_of(make_message("late", "slow"))]))
        await append(store, 20, 120)
        walk = await walk_of(store)
        await walk.publish()
        (found,) = await store.run(partitions.find_droppable(NOW))

        with pytest.raises(ConflictError):
            await store.run(partitions.drop(found))
        await append(store, 140, 1)  # nobody stands in the way of others

    assert not await store.run(partitions.drop(found)), "a row came that had not been seen"
    assert await store.run(partitions.find_droppable(NOW)) == []
    assert await walk.publish() == ["late", "m140"]
    assert await drop_all(store, partitions) == ["pillarbox_outbox_10_110"]


async def test_a_partition_is_not_made_under_a_transaction_that_would_not_see_it(
    store: RelationalStore, partitions: OutboxPartitions
) -> None:
    assert await store.run(partitions.extend(ROWS))
    await append(store, 0, 20)
    assert await store.run(partitions.extend(ROWS))
    async with store.begin() as tx:
        await tx.run(store.outbox.append([record_of(make_message("early", "slow"))]))
        await append(store, 20, 100)
        with suppress(ConflictError):
            await store.run(partitions.extend(ROWS))
        await append(store, 120, 95)  # up to positions of the partition that is made next

        await tx.run(store.outbox.append([record_of(make_message("late", "slow"))]))

    assert await (await walk_of(store)).publish() == [
        *(f"m{n}" for n in range(20)),
        "early",
        *(f"m{n}" for n in range(20, 215)),
        "late",
    ]


async def test_a_record_put_aside_is_not_lost_with_its_partition(
    store: RelationalStore, partitions: OutboxPartitions
) -> None:
    walk = await fill(store, partitions)
    found = await walk.read(limit=200)
    assert await walk.settle(found, Aside(position=found[50].position, refused="too large"))

    assert await drop_all(store, partitions) == ["pillarbox_outbox_10_110"]

    (parked,) = await store.run(store.parked.find(after=0, limit=10))
    assert parked.message.id == found[50].message.id


async def test_what_is_to_be_kept_keeps_its_partition(store: RelationalStore, partitions: OutboxPartitions) -> None:
    walk = await fill(store, partitions)
    await walk.publish()
    moment = timedelta(microseconds=1)
    assert await drop_all(store, partitions, timedelta(days=1)) == []
    assert await drop_all(store, partitions, moment) == [], "how old it is was never noted"

    await store.run(store.published.remember(every=NOW))

    assert await drop_all(store, partitions, timedelta(days=1)) == []
    assert await drop_all(store, partitions, moment) == ["pillarbox_outbox_10_110"]


async def test_two_relays_make_and_drop_a_partition_once(store: RelationalStore, partitions: OutboxPartitions) -> None:
    async def extend() -> bool:
        try:
            return await store.run(partitions.extend(ROWS))
        except ConflictError:
            return False

    async with asyncio.TaskGroup() as group:
        made = [group.create_task(extend()) for _ in range(4)]
    assert sum(task.result() for task in made) == 1
    await append(store, 0, 30)
    assert await store.run(partitions.extend(ROWS))
    await append(store, 30, 100)
    walk = await walk_of(store)
    await walk.publish()
    (found,) = await store.run(partitions.find_droppable(NOW))

    assert [await store.run(partitions.drop(found)) for _ in range(2)] == [True, False]


async def test_a_cursor_of_another_cluster_drops_nothing_above_what_it_published(
    store: RelationalStore, partitions: OutboxPartitions
) -> None:
    await fill(store, partitions)
    async with store.begin() as tx:
        ahead = text(
            "UPDATE pillarbox_outbox_cursor SET since = '999999:999999:', until = '999999:999999:', highest = 50"
        )
        await tx.connection.execute(ahead)

    assert await store.run(partitions.find_droppable(NOW)) == []


async def test_a_polling_relay_works_across_partitions_and_drops_the_empty_ones(
    store: RelationalStore, partitions: OutboxPartitions
) -> None:
    walk = await fill(store, partitions)
    fence = walk.fence
    while await store.run(store.marks.clear(*fence, successor="polling", keep=False, limit=100)):  # type: ignore[arg-type]
        pass
    assert await drop_all(store, partitions) == []

    positions = list(range(1, 111))
    assert await store.run_single(store.slots.settle(*fence, positions)) == 110

    assert await drop_all(store, partitions) == ["pillarbox_outbox_10_110"]


async def test_only_rows_of_the_default_partition_are_deleted_one_by_one(
    store: RelationalStore, partitions: OutboxPartitions
) -> None:
    walk = await fill(store, partitions)
    await walk.publish()

    assert await store.run(store.published.purge(NOW, limit=1000)) == 9
    assert await counts(store) == {"pillarbox_outbox_10_110": 100, "pillarbox_outbox_110_210": 40}


async def test_a_role_that_does_not_own_the_outbox_leaves_partitions_alone(
    store: RelationalStore, partitions: OutboxPartitions
) -> None:
    await append(store, 0, 3)
    assert store.traits.horizon is not None

    async with store.begin() as tx:
        await tx.connection.execute(text("SET LOCAL ROLE pg_monitor"))
        assert not await tx.run(partitions.extend(ROWS))
        assert await tx.run(partitions.find_droppable(NOW)) == []
        assert (await tx.run(store.traits.horizon.look())).last == 0, "reading begins at the lowest position"


async def test_after_100_000_events_next_to_nothing_is_left_to_vacuum(
    postgresql_url: str, store: RelationalStore
) -> None:
    settings = RelaySettings(kind="sequence", partition_rows=10_000)
    keeper = LeaseKeeper(
        LeaseTerms(scope="relay", ttl=timedelta(minutes=5), whole=True),
        "me",
        store=store.leases,
        source=store,
        clock=SystemClock(),
    )
    for _ in range(10):
        await keeper.keep()
        upkeep = Upkeep(published=store.published, partitions=store.traits.partitions, keeper=keeper, settings=settings)
        await upkeep.step()
        async with store.begin() as tx:
            await tx.connection.execute(TEN_THOUSAND)
        tenant = Tenant(scope="relay", tokens=tuple(keeper.tokens.values()), slots=tuple(keeper.tokens))
        walk = await begin_walk(_Harness(store), tenant)  # type: ignore[arg-type]  # as above
        assert len(await walk.publish(limit=2000)) == 10_000
    await store.close()  # so that the server counts what its connections did

    store = postgresql_store(make_url(postgresql_url))
    async with store.begin() as tx:
        dead, rows = (await tx.connection.execute(TUPLES)).one()
    await store.close()
    print(f"{dead} dead tuples, {rows} rows")
    assert dead < 2_000
    assert rows < 30_000
