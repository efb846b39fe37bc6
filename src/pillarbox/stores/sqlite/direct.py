"""Statements straight through sqlite3 and aiosqlite.

The file answers sooner than SQLAlchemy has made a result of the answer; and by aiosqlite, whose connection lives in a
thread, a statement is one visit there instead of four.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from pillarbox.relational import RelationalStore
from pillarbox.relational.direct import DirectSyncTransaction, DirectTransaction, Driver
from pillarbox.transaction.compiled import sqlite_compiler
from pillarbox.transaction.drivers import by_aiosqlite, by_sqlite3

_in_transaction = attrgetter("in_transaction")


def _never(_connection: Any) -> bool:
    """Tell that a connection to a file is not lost."""
    return False


class AiosqliteTransaction(DirectTransaction):
    """A transaction of the event loop's."""

    driver = Driver(compiler=sqlite_compiler, call=by_aiosqlite, is_begun=_in_transaction, is_closed=_never)


class SqliteTransaction(DirectSyncTransaction):
    """A transaction of a thread's."""

    driver = Driver(compiler=sqlite_compiler, call=by_sqlite3, is_begun=_in_transaction, is_closed=_never)


class SqliteStore(RelationalStore):
    """The store of a box on SQLite."""

    transaction_type = AiosqliteTransaction
    sync_transaction_type = SqliteTransaction
