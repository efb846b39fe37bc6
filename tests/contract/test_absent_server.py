"""A server that is not there, or dies, is an error that waiting may help; the store works again when it is back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from pillarbox.errors import StoreUnavailableError
from pillarbox.stores.postgresql import postgresql_store
from pillarbox.stores.sqlite import sqlite_store
from tests.servers.ports import free_port

if TYPE_CHECKING:
    from pillarbox.relational import RelationalStore
    from tests.servers import PostgresServer

DRIVERS = ["psycopg", "asyncpg"]


@pytest.mark.parametrize("driver", DRIVERS)
async def test_every_way_into_an_absent_database_says_that_it_is_unavailable(driver: str) -> None:
    store = postgresql_store(make_url(f"postgresql+{driver}://nobody@127.0.0.1:{free_port()}/nothing"))

    async def begin() -> None:
        async with store.begin():
            pass

    def begin_sync() -> None:
        with store.begin_sync():
            pass

    for attempt in (
        lambda: store.run(store.outbox.state()),
        lambda: store.run_single(store.outbox.state()),
        store.check_schema,
        begin,
        lambda: asyncio.to_thread(begin_sync),
    ):
        with pytest.raises(StoreUnavailableError, match="PostgreSQL is unavailable"):
            await attempt()
    await store.close()


async def test_a_folder_that_is_not_there_is_an_unavailable_database(tmp_path_factory: pytest.TempPathFactory) -> None:
    missing = tmp_path_factory.mktemp("data") / "missing" / "pillarbox.db"
    store = sqlite_store(make_url(f"sqlite:///{missing}"))

    with pytest.raises(StoreUnavailableError, match="SQLite is unavailable"):
        await store.run(store.outbox.state())
    await store.close()


async def _write(store: RelationalStore, server: PostgresServer, identity: str, *, again: bool) -> None:
    async with store.begin() as tx:
        await tx.run(store.inbox.record("shop/probe", [identity]))
        server.kill()
        if again:
            await tx.run(store.inbox.record("shop/probe", [f"{identity} again"]))


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_server_killed_at_any_moment_is_unavailable_until_it_is_back(
    private_postgresql_server: PostgresServer, driver: str
) -> None:
    server = private_postgresql_server
    store = postgresql_store(make_url(server.create_database()).set(drivername=f"postgresql+{driver}"))
    await store.migrate()

    for identity, again in {"within a statement": True, "within the commit": False}.items():
        with pytest.raises(Exception) as caught:  # noqa: PT011  # a driver's own
            await _write(store, server, identity, again=again)
        assert isinstance(store.translate(caught.value), StoreUnavailableError), caught.value
        server.start()
        assert await store.run(store.inbox.record("shop/probe", [identity])) == {identity}

    server.kill()
    server.start()
    with pytest.raises(StoreUnavailableError):
        await store.run(store.outbox.state())  # on a connection of the pool that does not know yet
    assert (await store.run(store.outbox.state())).pending == 0
    await store.close()
