"""Engines of the caller's stay the caller's."""

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from pillarbox import Pillarbox
from pillarbox.relational.migrations import CURRENT_VERSION


async def test_a_synchronous_engine_of_the_callers_is_not_disposed(postgresql_url: str) -> None:
    engine = create_engine(make_url(postgresql_url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        kept = connection.connection.dbapi_connection
    box = Pillarbox("shop", store=engine)

    await box.migrate()
    async with box:
        with box.transaction_sync() as tx:
            tx.execute(text("SELECT 1"))

    with engine.connect() as connection:
        assert connection.connection.dbapi_connection is kept
    engine.dispose()


async def test_an_asynchronous_engine_of_the_callers_is_not_disposed(postgresql_url: str) -> None:
    engine = create_async_engine(make_url(postgresql_url).set(drivername="postgresql+asyncpg"))
    async with engine.connect() as connection:
        kept = (await connection.get_raw_connection()).driver_connection
    box = Pillarbox("shop", store=engine)

    await box.migrate()
    async with box:
        pass

    async with engine.connect() as connection:
        assert (await connection.get_raw_connection()).driver_connection is kept
    await engine.dispose()


@pytest.mark.parametrize("place", ["memory://", "sqlite_url"])
async def test_migrating_a_box_that_is_not_open_leaves_it_usable(place: str, request: pytest.FixtureRequest) -> None:
    store = place if "://" in place else request.getfixturevalue(place)
    box = Pillarbox("shop", store=store)

    first, again = await box.migrate(), await box.migrate()

    assert (first, again) == (tuple(range(1, CURRENT_VERSION + 1)), ())
    async with box:
        await box.store.check_schema()
