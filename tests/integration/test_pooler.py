"""A box behind a pooler in transaction mode, which gives each transaction another session."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from pillarbox import Pillarbox
from tests.integration.boxes import SETTINGS, Happenings, OrderPlaced, create_tables, note, noted, publish

if TYPE_CHECKING:
    from tests.servers import PgBouncerServer

ROUNDS, AT_ONCE = 30, 4
WITHOUT_PREPARED_STATEMENTS: dict[str, dict[str, Any]] = {
    "psycopg": {"prepare_threshold": None},
    "asyncpg": {
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: f"__{uuid4()}__",
    },
}


@pytest.mark.parametrize("driver", WITHOUT_PREPARED_STATEMENTS)
async def test_a_box_whose_engine_prepares_nothing_works_behind_a_pooler(
    postgresql_url: str, driver: str, pgbouncer_server: PgBouncerServer
) -> None:
    async with Pillarbox("shop", store=postgresql_url, settings=SETTINGS) as direct:
        await create_tables(direct)
    url = pgbouncer_server.url_of(postgresql_url).replace("://", f"+{driver}://", 1)
    engine = create_async_engine(url, connect_args=WITHOUT_PREPARED_STATEMENTS[driver])
    box, happenings = Pillarbox("shop", store=engine, settings=SETTINGS), Happenings()
    box.observe(happenings)

    @box.on(OrderPlaced, name="notes")
    async def notes(order: OrderPlaced, tx: AsyncConnection) -> None:
        await note(tx, f"{order.order_id} {order.number}")

    async with box.running():
        for number in range(ROUNDS):
            async with asyncio.TaskGroup() as producers:
                for key in range(AT_ONCE):
                    producers.create_task(publish(box, OrderPlaced(f"o-{key}", number)))
        await happenings.until_settled(ROUNDS * AT_ONCE)
        handled = await noted(box)
    await engine.dispose()

    for key in range(AT_ONCE):
        assert [one for one in handled if one.startswith(f"o-{key} ")] == [f"o-{key} {n}" for n in range(ROUNDS)]
