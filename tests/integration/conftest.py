"""Where the boxes of these tests stand."""

from __future__ import annotations

import zlib
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from pillarbox.app.system_clock import SystemClock
from pillarbox.brokers.partitions import PartitionLeases
from pillarbox.stores.sqlite import sqlite_store
from pillarbox.testing.contracts import BrokerHarness
from tests import effort
from tests.conftest import skip_or_fail
from tests.servers import PgBouncerServer, ServerMissingError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pillarbox.channel import Broker
    from tests.servers import PostgresServer

SERVERS = [pytest.param(f"postgresql+{driver}", marks=pytest.mark.server) for driver in ("psycopg", "asyncpg")]

LEASE = timedelta(seconds=2)

MARIADB = pytest.param("mariadb+asyncmy", marks=pytest.mark.server)


IN_PROCESS = ["memory", "sqlite"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have each test that does not name its stores run on two of them: in this process, and on a server.

    They take turns. The contract suites hold all of them to the same rules. With everything wanted, each test runs on
    every store.
    """
    named = any("store_url" in marker.args[0] for marker in metafunc.definition.iter_markers("parametrize"))
    if "store_url" not in metafunc.fixturenames or named or hasattr(metafunc.module, "store_url"):
        return
    turn = zlib.crc32(metafunc.definition.nodeid.encode())
    on_servers = [*SERVERS, MARIADB]
    stores = effort.of([*IN_PROCESS, *on_servers], [IN_PROCESS[turn % 2], on_servers[turn % 3]])
    metafunc.parametrize("store_url", stores, indirect=True)


@pytest.fixture
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store, on PostgreSQL with our tables: in memory, in a file, on a server by either driver."""
    match request.param:
        case "memory":
            return "memory://"
        case "sqlite":
            url: str = request.getfixturevalue("sqlite_url")
            return url
        case "mariadb+asyncmy":
            url = request.getfixturevalue("mariadb_url")
            return url.replace("mysql://", "mariadb+asyncmy://")
        case driver:
            server = make_url(request.getfixturevalue("migrated_postgresql_url"))
            return server.set(drivername=driver).render_as_string(hide_password=False)


@pytest.fixture
def pgbouncer_server(postgresql_server: PostgresServer, pytestconfig: pytest.Config) -> Iterator[PgBouncerServer]:
    """A pooler in transaction mode before the PostgreSQL of the run."""
    server = PgBouncerServer(postgresql_server)
    try:
        server.start()
        yield server
    except ServerMissingError as missing:
        skip_or_fail(missing, pytestconfig)
    finally:
        server.close()


@pytest.fixture
async def leases() -> AsyncIterator[PartitionLeases]:
    """Leases of a broker's partitions that end soon."""
    store = sqlite_store(make_url("sqlite://"))
    await store.migrate()
    yield PartitionLeases(store=store.leases, source=store, clock=SystemClock(), ttl=LEASE)
    await store.close()


@pytest.fixture
def harness(broker: Broker) -> BrokerHarness:
    """The module's ``broker``, as the contracts' functions take it."""
    return BrokerHarness(broker=broker, again=lambda: broker)
