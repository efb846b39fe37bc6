"""Fixtures of the fault tests: where a story plays, and the processes in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pillarbox.relay import RelayKind
from tests.fault.story import Setting
from tests.fault.workers import Workers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from pillarbox import Pillarbox
    from pillarbox.relational import RelationalStore


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if "tests/fault/" in item.path.as_posix():
            item.add_marker("fault")


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    """Starts processes that a test may kill; none of them outlives it."""
    workers = Workers(tmp_path)
    yield workers
    workers.end_all()


@pytest.fixture
def setting(request: pytest.FixtureRequest) -> Setting:
    """Where the story plays: ``asyncpg`` or ``psycopg`` on PostgreSQL, ``mariadb`` or ``sqlite``, as the test says.

    The kind of relay may follow, as in ``asyncpg-sequence``.
    """
    driver, _, kind = str(getattr(request, "param", "asyncpg")).partition("-")
    kind = RelayKind(kind or "polling")
    if driver == "sqlite":
        return Setting(store=request.getfixturevalue("sqlite_url"), kind=kind)
    if driver == "mariadb":
        return Setting(store=request.getfixturevalue("mariadb_url"), kind=kind)
    url: str = request.getfixturevalue("migrated_postgresql_url")
    return Setting(store=url.replace("postgresql://", f"postgresql+{driver}://"), kind=kind)


@pytest.fixture
async def box(setting: Setting) -> AsyncIterator[Pillarbox]:
    """A box of the story for the test itself; it runs no worker."""
    box = setting.box()
    yield box
    await box.store.close()


@pytest.fixture
def store(box: Pillarbox) -> RelationalStore:
    """The store of the story, for the test to look into."""
    return box.store
