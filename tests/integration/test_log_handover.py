"""The log of a table-less outbox as another kind of relay takes over, step by step: no message stays behind in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from pillarbox import RelaySettings
from pillarbox.errors import ConfigurationError, StoreUnavailableError
from pillarbox.relay import RelayKind
from tests.integration.boxes import OrderPlaced
from tests.integration.log_boxes import LogScene

if TYPE_CHECKING:
    from pillarbox import Pillarbox
    from pillarbox.transaction import Program
    from tests.servers import PostgresServer


class EndedError(Exception):
    """The process ended here."""


@pytest.fixture
async def scene(postgresql_server: PostgresServer, postgresql_url: str) -> AsyncIterator[LogScene]:
    """A table-less outbox whose relay has read all of it and ended."""
    scene = LogScene(postgresql_server, postgresql_url, form="log")
    async with scene.relaying():
        await scene.until_read()
    await scene.until_unread()
    yield scene
    await scene.close()


async def retire(box: Pillarbox, *, ends_before_last_commit: bool = False) -> None:
    """Take steps until the place in the log is forgotten."""

    def step() -> Program[bool]:
        assert box.store.traits.log is not None
        is_going_on = yield from box.store.traits.log.checkpoints.retire()
        if ends_before_last_commit and not is_going_on:
            raise EndedError
        return is_going_on

    while await box.store.run(step()):
        pass


def rows(scene: LogScene) -> int:
    return int(scene.scalar("SELECT count(*) FROM pillarbox_outbox"))


async def test_the_log_is_not_given_up_while_a_producer_may_have_written_into_it(scene: LogScene) -> None:
    box, taker = scene.box(), scene.box()
    async with box.transaction() as tx:
        await box.publish(OrderPlaced("o-1", 1), tx=tx)
        with pytest.raises(StoreUnavailableError, match="open"):
            await retire(taker)

    with pytest.raises(ConfigurationError, match="table-less"):
        await retire(taker)
    async with scene.relaying():
        await scene.broker.until([1])
    assert scene.gaps() == []


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
async def test_a_transaction_that_still_sees_the_log_being_read_does_not_write_into_one_that_nobody_reads(
    scene: LogScene, isolation: str
) -> None:
    box = scene.box()
    engine = create_async_engine(box.store.engine.url, isolation_level=isolation)
    async with engine.begin() as tx:
        await tx.execute(text("SELECT 1"))  # its view of the data is taken here
        scene.form = "table"
        async with scene.relaying(RelaySettings()):
            await scene.publish(1)
            await scene.broker.until([1])
        await box.publish(OrderPlaced("o-1", 2), tx=tx)
    await engine.dispose()

    async with scene.relaying(RelaySettings()):
        await scene.broker.until([2])
    assert scene.broker.numbers == [1, 2]


async def test_a_taker_that_ends_after_the_slot_is_gone_leaves_no_log_that_is_written_and_not_read(
    scene: LogScene,
) -> None:
    with pytest.raises(EndedError):
        await retire(scene.box(), ends_before_last_commit=True)
    assert scene.slots() == []

    await scene.publish(1)

    assert rows(scene) == 1
    await retire(scene.box())
    assert scene.scalar("SELECT count(*) FROM pillarbox_outbox_checkpoint") == "0"


async def test_a_log_that_was_about_to_be_given_up_is_read_again_without_a_gap(scene: LogScene) -> None:
    with pytest.raises(EndedError):
        await retire(scene.box(), ends_before_last_commit=True)
    await scene.publish(1)

    async with scene.relaying():
        await scene.broker.until([1])
        await scene.until_read()
        await scene.publish(2)
        await scene.broker.until([2])

    assert scene.broker.numbers == [1, 2]
    assert scene.gaps() == []


@pytest.mark.parametrize(("told_of", "reason"), [("dropped", "slot missing"), ("made anew", "slot recreated")])
@pytest.mark.parametrize("kind", [RelayKind.POLLING, RelayKind.SEQUENCE])
async def test_a_log_that_somebody_cut_while_no_relay_read_it_is_told_of_by_whoever_takes_over(
    scene: LogScene, told_of: str, reason: str, kind: RelayKind
) -> None:
    await scene.publish(1)
    scene.sql(f"SELECT pg_drop_replication_slot('{scene.slot}')")
    if told_of == "made anew":
        scene.sql(f"SELECT pg_create_logical_replication_slot('{scene.slot}', 'pgoutput')")

    scene.form = "table"
    async with scene.relaying(RelaySettings(kind=kind.value)):
        await scene.publish(2)
        await scene.broker.until([2])
    async with scene.relaying(RelaySettings(kind=kind.value)):
        await scene.publish(3)
        await scene.broker.until([3])

    assert scene.broker.numbers == [2, 3]
    assert scene.gaps() == [(reason, False)], "once, and that nothing heals it"


async def test_a_log_that_was_cut_is_no_loss_where_the_table_has_it_all(
    postgresql_server: PostgresServer, postgresql_url: str
) -> None:
    scene = LogScene(postgresql_server, postgresql_url)
    async with scene.relaying():
        await scene.until_read()
    await scene.until_unread()
    await scene.publish(1)
    scene.sql(f"SELECT pg_drop_replication_slot('{scene.slot}')")

    async with scene.relaying(RelaySettings()):
        await scene.broker.until([1])

    assert scene.gaps() == [("slot missing", True)]
    await scene.close()
