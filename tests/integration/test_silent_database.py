"""A database that gives no answer: the connection is given up in time, and what waited for it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest
from sqlalchemy import make_url, select, text

from pillarbox.app.places import store_at
from pillarbox.errors import StoreUnavailableError
from pillarbox.relational import RelationalStore
from pillarbox.transaction import Execute, Program
from tests.servers.proxy import Proxy

DRIVERS = ["postgresql+psycopg", "postgresql+asyncpg", "mariadb+asyncmy"]
PATIENCE = timedelta(milliseconds=400)
ENOUGH_S = 20
"""Of a driver's own time to close what it thinks is a connection; TCP alone would take many minutes."""

LOCK = text("SELECT id FROM things FOR UPDATE")


@pytest.fixture(params=DRIVERS)
def url(request: pytest.FixtureRequest) -> str:
    """A database by one driver."""
    kind = "mariadb_url" if request.param.startswith("mariadb") else "postgresql_url"
    return make_url(request.getfixturevalue(kind)).set(drivername=request.param).render_as_string(hide_password=False)


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    """What lies between the store and its database."""
    port = make_url(url).port
    assert port is not None
    with Proxy(port) as proxy:
        yield proxy


@pytest.fixture
async def store(url: str, proxy: Proxy) -> AsyncIterator[RelationalStore]:
    """A store without patience, behind the proxy."""
    store = store_at(make_url(url).set(port=proxy.port))
    store.wait_within(PATIENCE)
    yield store
    async with asyncio.timeout(ENOUGH_S):
        await store.close()


def ask() -> Program[int]:
    """Ask for a number."""
    return int((yield Execute(select(text("42"))))[0][0])


async def test_a_program_on_a_forgotten_connection_fails_in_time(store: RelationalStore, proxy: Proxy) -> None:
    assert await store.run(ask()) == 42
    proxy.forget()

    async with asyncio.timeout(ENOUGH_S):
        with pytest.raises(StoreUnavailableError, match=r"no answer within 0\.4 s"):
            await store.run(ask())
        assert await store.run(ask()) == 42, "the next connection works"


async def test_a_single_statement_on_a_forgotten_connection_fails_in_time(store: RelationalStore, proxy: Proxy) -> None:
    assert await store.run_single(ask()) == 42
    proxy.forget()

    async with asyncio.timeout(ENOUGH_S):
        with pytest.raises(StoreUnavailableError, match=r"no answer within 0\.4 s"):
            await store.run_single(ask())
        assert await store.run_single(ask()) == 42


async def test_a_commit_that_is_not_answered_fails_in_time(store: RelationalStore, proxy: Proxy) -> None:
    async def write() -> None:
        async with store.begin() as tx:
            await tx.run(ask())
            proxy.forget()

    async with asyncio.timeout(ENOUGH_S):
        with pytest.raises(StoreUnavailableError, match=r"no answer within 0\.4 s"):
            await write()
        assert await store.run(ask()) == 42


async def test_connecting_to_a_silent_database_fails_in_time(store: RelationalStore, proxy: Proxy) -> None:
    proxy.swallow()

    async with asyncio.timeout(ENOUGH_S):
        with pytest.raises(StoreUnavailableError, match=r"^store \w+ is unavailable: no answer within 0\.4 s;"):
            await store.run(ask())
        proxy.forward()
        assert await store.run(ask()) == 42


@pytest.mark.parametrize("url", DRIVERS[:2], indirect=True)
async def test_the_locks_of_a_forgotten_transaction_are_given_up_by_the_server(
    url: str, store: RelationalStore, proxy: Proxy
) -> None:
    server = store_at(url)
    async with server.begin() as tx:
        await tx.connection.execute(text("CREATE TABLE things (id INTEGER PRIMARY KEY)"))
        await tx.connection.execute(text("INSERT INTO things VALUES (1)"))

    def lock_and_be_forgotten() -> Program[None]:
        yield Execute(LOCK)
        proxy.forget()
        yield Execute(LOCK)

    async with asyncio.timeout(ENOUGH_S):
        with pytest.raises(StoreUnavailableError):
            await store.run(lock_and_be_forgotten())
        async with server.begin() as tx:  # waits for the row for ten seconds at most
            await tx.connection.execute(text("SET LOCAL lock_timeout = '5s'"))
            assert (await tx.connection.execute(LOCK)).all() == [(1,)]
    await server.close()
