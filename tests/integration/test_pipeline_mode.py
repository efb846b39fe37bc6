"""A connection that psycopg leaves in pipeline mode: nothing is taken for "no rows", and nobody gets it again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from psycopg import OperationalError
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from pillarbox import Retry
from pillarbox.errors import TransientError
from pillarbox.observe import MessageDead
from pillarbox.relay.sequence import Window
from pillarbox.stores.postgresql import postgresql_store
from pillarbox.transaction import adopt
from tests.integration.boxes import OrderPlaced, create_tables, make_box, note, noted, publish

pytestmark = pytest.mark.server
STEPS = 12
"""More than an ``executemany`` of three rows has up to its end, where the first of them matters."""


async def raw(connection: AsyncConnection) -> Any:
    return (await connection.get_raw_connection()).driver_connection


@pytest.mark.parametrize("is_lent", [False, True])
async def test_a_task_that_is_cancelled_as_it_writes_many_rows_spoils_no_connection_for_others(
    postgresql_url: str, is_lent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between beginning the pipeline and writing psycopg lets others run, if it has not for a while."""
    monkeypatch.setattr("psycopg.waiting.MAX_BUSY_TIME", 0.0, raising=False)  # as if it never had
    url = make_url(postgresql_url).set(drivername="postgresql+psycopg")
    engine = create_async_engine(url, pool_size=1, max_overflow=0)
    store = postgresql_store(engine if is_lent else url, pool_size=1)
    if is_lent:
        postgresql_store(engine)  # another one on the same engine changes nothing
    await store.migrate()
    rows = [{"id": f"m{number}"} for number in range(3)]
    many = text("INSERT INTO pillarbox_inbox (consumer, message_id, processed_at) VALUES ('shop/many', :id, 0)")

    async def write() -> None:
        async with store.engine.begin() as connection:
            await connection.execute(many, rows)
            await connection.rollback()

    for step in range(STEPS):
        writing = asyncio.create_task(write())
        for _ in range(step):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

        async with store.engine.connect() as connection:
            assert not (await raw(connection)).pgconn.pipeline_status, f"cancelled after {step} steps"
        assert await store.run(store.inbox.record("shop/one", [f"id-{step}"])) == {f"id-{step}"}

    await store.close()
    await engine.dispose()


async def test_that_there_are_no_rows_is_not_believed_of_a_connection_that_hands_out_none(postgresql_url: str) -> None:
    """A lock that was not seen, or an id that was not recorded, would be taken for one of somebody else."""
    store = postgresql_store(make_url(postgresql_url).set(drivername="postgresql+psycopg"), pool_size=1)
    await store.migrate()
    async with store.engine.connect() as connection:
        pipeline = (await raw(connection)).pipeline()
        await pipeline.__aenter__()
        with pytest.raises(TransientError, match="handed out no rows"):
            await adopt(connection).run(store.inbox.record("shop/one", ["a"]))
        with pytest.raises(OperationalError, match="the connection is closed"):
            await pipeline.__aexit__(None, None, None)
        assert connection.invalidated

    assert await store.run(store.inbox.record("shop/one", ["a"])) == {"a"}
    await store.close()


async def test_that_there_are_no_records_is_not_believed_of_a_connection_that_hands_out_none(
    postgresql_url: str,
) -> None:
    """A sequence relay would move its cursor past what it has not read."""
    store = postgresql_store(make_url(postgresql_url).set(drivername="postgresql+psycopg"), pool_size=1)
    await store.migrate()
    assert store.traits.sequence is not None
    window = Window(since="1:1:", until="9:9:", floor=0)
    async with store.engine.connect() as connection:
        pipeline = (await raw(connection)).pipeline()
        await pipeline.__aenter__()
        with pytest.raises(TransientError, match="handed out no rows"):
            await adopt(connection).run(store.traits.sequence.read(window, after=0, limit=1))
        with pytest.raises(OperationalError, match="the connection is closed"):
            await pipeline.__aexit__(None, None, None)

    await store.close()


async def test_what_a_handler_leaves_in_pipeline_mode_is_no_failure_of_its_neighbours(postgresql_url: str) -> None:
    """As one does that runs out of time at that moment."""
    box, happenings = make_box(postgresql_url.replace("postgresql://", "postgresql+psycopg://"))
    begun: list[Any] = []  # kept, since a pipeline that nobody has any more ends

    @box.on(OrderPlaced, name="one", retry=Retry(attempts=1), concurrency=1)
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        assert (await tx.execute(text("SELECT 1"))).scalar_one() == 1
        await note(tx, order.order_id)
        if order.order_id.startswith("bad"):
            begun.append((await raw(tx))._pipeline_nolock())
            await begun[-1].__aenter__()
            raise ValueError("bad")

    async with box:
        await create_tables(box)
        await publish(box, *(OrderPlaced(one) for one in ("o-1", "bad-1", "o-2", "bad-2", "o-3", "o-4")))
        async with box.running():
            await happenings.until_settled(6)
        assert {one.error_type for one in happenings.of(MessageDead)} == {"ValueError"}
        assert sorted(await noted(box)) == ["o-1", "o-2", "o-3", "o-4"]
