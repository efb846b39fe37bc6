"""Fixtures of the stepwise tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from pillarbox.stores.mysql import mysql_store
from pillarbox.stores.postgresql import postgresql_store
from pillarbox.stores.sqlite import sqlite_store
from tests.fault.story import metadata

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillarbox.relational import RelationalStore


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if "tests/simulation/" in item.path.as_posix():
            item.add_marker("fault")


@pytest.fixture
async def store(request: pytest.FixtureRequest) -> AsyncIterator[RelationalStore]:
    """A store with its tables: PostgreSQL by the driver named, ``mariadb``, or ``sqlite``."""
    kind: str = getattr(request, "param", "asyncpg")
    if kind == "sqlite":
        made: RelationalStore = sqlite_store(make_url(request.getfixturevalue("sqlite_url")))
    elif kind == "mariadb":
        made = mysql_store(make_url(request.getfixturevalue("mariadb_url")))
    else:
        url = make_url(request.getfixturevalue("migrated_postgresql_url"))
        made = postgresql_store(url.set(drivername=f"postgresql+{kind}"))
    await made.migrate()
    async with made.begin() as transaction:
        await transaction.connection.run_sync(metadata.create_all)
    yield made
    await made.close()
