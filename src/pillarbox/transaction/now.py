"""The database's clock as a word of SQL, for whoever writes into a caller's transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class now_us(FunctionElement[int]):  # noqa: N801  # reads as an SQL function
    """The database's clock, now and not when the transaction began, in microseconds since 1970 UTC."""

    type = BigInteger()
    inherit_cache = True
    name = "now_us"


@compiles(now_us, "postgresql")
def _now_postgresql(element: now_us, compiler: SQLCompiler, **_: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"


@compiles(now_us, "sqlite")
def _now_sqlite(element: now_us, compiler: SQLCompiler, **_: Any) -> str:
    return "CAST(round((julianday('now') - 2440587.5) * 86400000000.0) AS INTEGER)"


@compiles(now_us, "mysql", "mariadb")
def _now_mysql(_element: now_us, _compiler: SQLCompiler, **_: Any) -> str:
    """Render the clock without the session's time zone; when the statement began, so that an index can be used."""
    return "TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6))"


@compiles(now_us)
def _for_people(element: now_us, compiler: SQLCompiler, **_: Any) -> str:
    """Render for ``str()``, as in an error's text; no database is asked to run this."""
    return "now_us()"
