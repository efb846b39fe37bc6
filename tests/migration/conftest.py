"""Fresh databases without tables, and stores on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import pytest
from sqlalchemy import make_url

from pillarbox.relational import RelationalStore
from pillarbox.stores.mysql import mysql_store
from pillarbox.stores.postgresql import postgresql_store
from pillarbox.stores.sqlite import sqlite_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OpenStore: TypeAlias = Callable[[], RelationalStore]

DATABASES = [
    "sqlite",
    pytest.param("postgresql+psycopg", marks=pytest.mark.server),
    pytest.param("postgresql+asyncpg", marks=pytest.mark.server),
    pytest.param("mariadb+asyncmy", marks=pytest.mark.server),
]
FIXTURES = {"sqlite": "sqlite_url", "mariadb+asyncmy": "mariadb_url"}


@pytest.fixture(params=DATABASES)
async def open_store(request: pytest.FixtureRequest) -> AsyncIterator[OpenStore]:
    """Opens one more store on the same empty database."""
    url = make_url(request.getfixturevalue(FIXTURES.get(request.param, "postgresql_url")))
    opened: list[RelationalStore] = []

    def open_one() -> RelationalStore:
        match request.param:
            case "sqlite":
                made: RelationalStore = sqlite_store(url)
            case "mariadb+asyncmy":
                made = mysql_store(url.set(drivername=request.param))
            case _:
                made = postgresql_store(url.set(drivername=request.param))
        opened.append(made)
        return made

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore) -> RelationalStore:
    """A store with its tables."""
    made = open_store()
    await made.migrate()
    return made
