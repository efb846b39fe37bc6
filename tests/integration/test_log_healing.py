"""A log that may lack events: slots dropped, made anew, invalidated; checkpoints of elsewhere. All is published."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pillarbox.relay.log_reader import GapReason
from tests.integration.log_boxes import FORMS, WITHIN, LogScene
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.servers import PostgresServer


@pytest.fixture
async def scene(postgresql_server: PostgresServer, postgresql_url: str) -> AsyncIterator[LogScene]:
    scene = LogScene(postgresql_server, postgresql_url)
    yield scene
    await scene.close()


async def first_day(scene: LogScene) -> None:
    """Let a relay work and stop, as one does."""
    async with scene.relaying():
        await scene.publish(1)
        await scene.broker.until([1])
    await scene.until_unread()


async def test_what_committed_while_the_slot_was_gone_is_published(scene: LogScene) -> None:
    await first_day(scene)
    await scene.publish(2)
    scene.sql(f"SELECT pg_drop_replication_slot('{scene.slot}')")
    await scene.publish(3)

    async with scene.relaying():
        await scene.broker.until([2, 3])
        await scene.publish(4)
        await scene.broker.until([4])

    assert scene.broker.numbers == [1, 2, 3, 4]
    assert scene.gaps() == [(GapReason.SLOT_MISSING, True)]


async def test_a_slot_that_a_stranger_made_anew_is_noticed(scene: LogScene) -> None:
    await first_day(scene)
    await scene.publish(2)
    scene.sql(f"SELECT pg_drop_replication_slot('{scene.slot}')")
    scene.sql(f"SELECT pg_create_logical_replication_slot('{scene.slot}', 'pgoutput')")
    await scene.publish(3)

    async with scene.relaying():
        await scene.broker.until([2, 3])
        await scene.publish(4)
        await scene.broker.until([4])

    assert scene.broker.numbers == [1, 2, 3, 4]
    assert scene.gaps() == [(GapReason.SLOT_RECREATED, True)]


async def test_an_invalidated_slot_is_replaced(private_postgresql_server: PostgresServer) -> None:
    server = private_postgresql_server
    server.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    server.execute("SELECT pg_reload_conf()")
    scene = LogScene(server, server.create_database())
    await first_day(scene)
    await scene.publish(2)

    def is_lost() -> bool:
        scene.sql("CREATE TABLE noise AS SELECT repeat('x', 500) FROM generate_series(1, 60000); DROP TABLE noise")
        scene.sql("SELECT pg_switch_wal()")
        scene.sql("CHECKPOINT")
        return scene.scalar(f"SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{scene.slot}'") == "lost"

    await wait_until(is_lost, WITHIN)
    server.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
    server.execute("SELECT pg_reload_conf()")
    async with scene.relaying():
        await scene.broker.until([2])
        await scene.publish(3)
        await scene.broker.until([3])

    assert scene.broker.numbers == [1, 2, 3]
    assert scene.gaps() == [(GapReason.SLOT_LOST, True)]
    await scene.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE pillarbox_outbox_checkpoint SET system_id = '1'", GapReason.OTHER_SYSTEM),
        ("UPDATE pillarbox_outbox_checkpoint SET timeline = 7", GapReason.OTHER_TIMELINE),
        ("DELETE FROM pillarbox_outbox_checkpoint", GapReason.NO_CHECKPOINT),
        ("DROP PUBLICATION pillarbox_outbox", GapReason.NOT_PUBLISHED),
        ("ALTER PUBLICATION pillarbox_outbox SET (publish = 'update')", GapReason.NOT_PUBLISHED),
    ],
)
async def test_whatever_does_not_fit_is_told_and_healed(scene: LogScene, change: str, reason: GapReason) -> None:
    await first_day(scene)
    scene.sql(change)
    await scene.publish(2)

    async with scene.relaying():
        await scene.broker.until([2])
        await scene.publish(3)
        await scene.broker.until([3])

    assert scene.broker.numbers == [1, 2, 3]
    assert scene.gaps() == [(reason, True)]
    assert len(scene.slots()) == 1


async def test_records_of_a_restored_dump_are_published_whatever_transactions_they_name(scene: LogScene) -> None:
    await first_day(scene)
    await scene.publish(2)
    scene.sql("UPDATE pillarbox_outbox SET transaction_id = '999999999999'")
    scene.sql(f"SELECT pg_drop_replication_slot('{scene.slot}')")

    async with scene.relaying():
        await scene.broker.until([2])

    assert scene.broker.numbers == [1, 2]


async def test_a_slot_dropped_under_a_relay_at_work_is_noticed(scene: LogScene) -> None:
    async with scene.relaying():
        await scene.publish(1)
        await scene.until_read()
        await scene.until_settled()
        scene.sql(
            f"SELECT pg_terminate_backend(active_pid, 5000), pg_drop_replication_slot('{scene.slot}')"
            f" FROM pg_replication_slots WHERE slot_name = '{scene.slot}'"
        )
        await scene.publish(2)
        await scene.broker.until([2])

    assert scene.broker.numbers == [1, 2]
    assert scene.gaps() == [(GapReason.SLOT_MISSING, True)]


async def test_without_a_table_a_gap_is_told_as_one_that_cannot_be_healed(
    postgresql_server: PostgresServer, postgresql_url: str
) -> None:
    scene = LogScene(postgresql_server, postgresql_url, form="log")
    await first_day(scene)
    await scene.publish(2)
    scene.sql(f"SELECT pg_drop_replication_slot('{scene.slot}')")

    async with scene.relaying():
        await scene.until_read()
        await scene.publish(3)
        await scene.broker.until([3])

    assert scene.broker.numbers == [1, 3]
    assert scene.gaps() == [(GapReason.SLOT_MISSING, False)]
    await scene.close()


@pytest.mark.parametrize("form", FORMS)
async def test_before_there_is_a_slot_records_have_rows(
    postgresql_server: PostgresServer, postgresql_url: str, form: str
) -> None:
    scene = LogScene(postgresql_server, postgresql_url, form="log" if form == "log" else "table")
    await scene.publish(1, 2)
    assert scene.scalar("SELECT count(*) FROM pillarbox_outbox") == "2"

    async with scene.relaying():
        await scene.broker.until([1, 2])
        await scene.until_read()
        await scene.publish(3)
        await scene.broker.until([3])

    assert scene.broker.numbers == [1, 2, 3]
    await scene.close()


async def test_a_slot_waits_for_transactions_under_way_without_losing_the_lease(scene: LogScene) -> None:
    box = scene.box()
    await box.migrate()
    async with box.transaction() as tx:
        await tx.exec_driver_sql("SELECT pg_current_xact_id()")
        await scene.publish(1)
        relaying = scene.relaying()
        await relaying.__aenter__()
        expires = "SELECT max(expires_at) FROM pillarbox_leases"
        await wait_until(lambda: scene.scalar(expires) not in ("", "0"), WITHIN)
        first = scene.scalar(expires)
        await wait_until(lambda: int(scene.scalar(expires)) > int(first) + 2_000_000, timedelta(seconds=20))
        assert scene.broker.numbers == []
    await scene.broker.until([1])
    await relaying.__aexit__(None, None, None)

    assert scene.broker.numbers == [1]
