"""What cannot be joined is refused with words that help."""

from __future__ import annotations

import sqlite3
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from pillarbox.errors import ConfigurationError
from pillarbox.transaction import adopt, adopt_sync


@pytest.fixture
def engine() -> Engine:
    return create_engine("sqlite://")


@pytest.fixture
def async_engine() -> AsyncEngine:
    return create_async_engine("sqlite+aiosqlite://")


@pytest.mark.parametrize("given", [None, "sqlite://", object(), 7])
def test_an_unknown_object_is_refused_with_what_is_accepted(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"psycopg AsyncConnection.*aiosqlite"):
        adopt(given)
    with pytest.raises(ConfigurationError, match=r"psycopg Connection.*sqlite3.*Django"):
        adopt_sync(given)


def test_an_engine_or_a_session_factory_is_refused(engine: Engine, async_engine: AsyncEngine) -> None:
    for given in (engine, async_engine, sessionmaker(engine), async_sessionmaker(async_engine)):
        with pytest.raises(ConfigurationError, match="open a connection or a session"):
            adopt(given)  # type: ignore[arg-type]  # what is refused here
        with pytest.raises(ConfigurationError, match="open a connection or a session"):
            adopt_sync(given)  # type: ignore[arg-type]  # what is refused here


def test_a_synchronous_connection_is_sent_to_the_sync_methods(engine: Engine) -> None:
    with sqlite3.connect(":memory:") as connection, Session(engine) as session:
        for given in (connection, session):
            with pytest.raises(ConfigurationError, match="publish_sync"):
                adopt(given)  # type: ignore[arg-type]  # what is refused here
    connection.close()


async def test_an_asynchronous_session_is_sent_to_the_awaited_methods(async_engine: AsyncEngine) -> None:
    with pytest.raises(ConfigurationError, match=r"await the method without _sync"):
        adopt_sync(AsyncSession(async_engine))  # type: ignore[arg-type]  # what is refused here


def driver_stand_in() -> ModuleType:
    """A DBAPI module that is never called: no connection is opened."""
    module = ModuleType("stand_in")
    module.paramstyle = "format"  # type: ignore[attr-defined]  # every DBAPI module has one
    return module


@pytest.mark.parametrize("scheme", ["mysql", "mariadb"])
def test_mysql_and_mariadb_are_one_dialect(scheme: str) -> None:
    engine = create_engine(f"{scheme}+pymysql://", module=driver_stand_in())

    assert adopt_sync(Session(engine)).dialect_name == "mysql"


def test_another_database_is_refused() -> None:
    engine = create_engine("mssql+pymssql://", module=driver_stand_in())

    with pytest.raises(ConfigurationError, match="mssql is not supported"):
        adopt_sync(Session(engine))


def test_a_session_that_has_no_database_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="which database"):
        adopt_sync(Session())
    with pytest.raises(ConfigurationError, match="which database"):
        adopt(AsyncSession())
