"""Where the boxes of these tests stand."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url

SERVERS = [pytest.param(f"postgresql+{driver}", marks=pytest.mark.server) for driver in ("psycopg", "asyncpg")]

MARIADB = pytest.param("mariadb+asyncmy", marks=pytest.mark.server)


@pytest.fixture(params=["memory", "sqlite", *SERVERS, MARIADB])
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store: in memory, in a file, on a server by either driver."""
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
            server = make_url(request.getfixturevalue("postgresql_url"))
            return server.set(drivername=driver).render_as_string(hide_password=False)
