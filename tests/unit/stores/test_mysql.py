"""Which servers and drivers the MariaDB store takes, and how its statements read."""

from __future__ import annotations

import asyncio
import re
from unittest.mock import Mock

import pytest
from sqlalchemy import Insert, make_url
from sqlalchemy.dialects import mysql
from sqlalchemy.pool import ConnectionPoolEntry

import pillarbox.relational.mysql_words  # noqa: F401
from pillarbox.errors import ConfigurationError
from pillarbox.relational import (
    acts,
    dead_letter_edits,
    dead_letter_groups,
    dead_letters,
    holding,
    idempotency,
    leases,
    outbox,
    outbox_held,
    queue,
    replay_runs,
)
from pillarbox.stores.mysql import idempotency as ours
from pillarbox.stores.mysql import mysql_store
from pillarbox.stores.mysql.store import refuse_unfit

STRICT = "STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION"


@pytest.mark.parametrize("version", ["10.5.26-MariaDB-log", "10.3.39-MariaDB", "5.7.44", "8.0.0", "5.5.62-log"])
def test_a_server_without_skip_locked_is_refused(version: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(version)):
        refuse_unfit(version, STRICT)


@pytest.mark.parametrize("version", ["10.6.0-MariaDB", "10.11.19-MariaDB-0+deb12u1-log", "11.8.2-MariaDB", "8.0.36"])
def test_a_server_that_is_new_enough_is_taken(version: str) -> None:
    refuse_unfit(version, STRICT)


def test_sessions_that_cut_values_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="STRICT_TRANS_TABLES"):
        refuse_unfit("11.4.2-MariaDB", "NO_ENGINE_SUBSTITUTION")


@pytest.mark.parametrize("driver", ["mysqldb", "mysqlconnector", "pymysql"])
def test_a_driver_that_the_store_does_not_speak_through_is_refused(driver: str) -> None:
    with pytest.raises(ConfigurationError, match=driver):
        mysql_store(make_url(f"mysql+{driver}://h/d"))


@pytest.mark.parametrize("kind", ["mysql", "mariadb", "mysql+asyncmy", "mariadb+asyncmy"])
def test_a_url_names_the_store_with_or_without_its_driver(kind: str) -> None:
    assert mysql_store(make_url(f"{kind}://h/d")).engine.url.drivername.endswith("+asyncmy")


def test_a_connection_that_is_given_up_before_its_session_is_set_has_nothing_to_end() -> None:
    """SQLAlchemy 2.0 gives it up when it is cancelled in the midst; that is what whoever asked for it is to hear."""
    pool = mysql_store(make_url("mysql://h/d")).engine.sync_engine.pool
    record = Mock(spec=ConnectionPoolEntry, info={})

    pool.dispatch.invalidate(Mock(), record, asyncio.CancelledError())


def test_no_statement_ignores_errors() -> None:
    modules = (
        acts,
        dead_letter_edits,
        dead_letter_groups,
        replay_runs,
        dead_letters,
        holding,
        idempotency,
        leases,
        outbox,
        outbox_held,
        queue,
        ours,
    )
    inserts = [
        one for module in modules for one in vars(module).values() if isinstance(one, Insert) and not one._returning
    ]
    assert inserts
    for one in inserts:
        assert "IGNORE" not in str(one.compile(dialect=mysql.dialect())).upper()
