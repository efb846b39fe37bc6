"""SQL words that the databases spell differently, as SQLAlchemy constructs.

A list travels as one bound value (an array on PostgreSQL, JSON text on SQLite), so that the text of a statement does
not depend on how many values it is given and stays prepared. MySQL and MariaDB are sent text anyway; there a list is
spelled out, since neither finds rows by their key from a list in JSON. What else they lack is in `mysql_words`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Dialect,
    Integer,
    String,
    Table,
    TableValuedAlias,
    Text,
    bindparam,
    column,
)
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BindParameter
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType, TypeDecorator, TypeEngine, UserDefinedType

from pillarbox.transaction.now import now_us as now_us  # noqa: PLC0414  # one of the words that statements are made of

MICROSECONDS = 1_000_000
LONGEST_US = 1 << 62
"""Stands for a duration that means for ever: what is far longer no database can reckon with."""


def insert_into(table: Table) -> Insert:
    """Return an INSERT that can say ON CONFLICT (PostgreSQL and SQLite spell it alike) and fetches nothing back."""
    return insert(table).inline()


class ListOf(TypeDecorator[Sequence[Any]]):
    """A list bound as one value: an array where the database has arrays, else JSON text."""

    impl = Text
    cache_ok = True

    def __init__(self, item: TypeEngine[Any]) -> None:
        """Bind lists of ``item``; only used for parameters, never for columns."""
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the array type on PostgreSQL."""
        return dialect.type_descriptor(ARRAY(self.item) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: Sequence[Any] | None, dialect: Dialect) -> Any:
        """Pass a list through on PostgreSQL and as JSON elsewhere."""
        if value is None or dialect.name == "postgresql":
            return None if value is None else list(value)
        return json.dumps(list(value))


class PositionList(TypeDecorator[Sequence[int]]):
    """A long list of integers, bound as text: drivers encode an array element by element."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Sequence[int] | None, dialect: Dialect) -> str | None:
        """Spell an array on PostgreSQL and JSON elsewhere."""
        if value is None:
            return None
        numbers = ",".join(map(str, value))
        return f"{{{numbers}}}" if dialect.name == "postgresql" else f"[{numbers}]"


def micros(duration: timedelta) -> int:
    """Return ``duration`` in microseconds, at most ``LONGEST_US`` of them."""
    return max(-LONGEST_US, min(duration // timedelta(microseconds=1), LONGEST_US))


def numbers(name: str) -> BindParameter[Sequence[Any]]:
    """Return a parameter ``name`` that takes a sequence of integers."""
    return bindparam(name, type_=ListOf(BigInteger()))


def position_list(name: str) -> BindParameter[Sequence[int]]:
    """Return a parameter ``name`` that takes a long sequence of integers, for ``any_of`` and ``none_of``."""
    return bindparam(name, type_=PositionList())


def anywhere(position: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return a range that holds every position: with it even a plan for unknown values walks the index in order."""
    first = bindparam("first_position", 0, type_=BigInteger)
    return position.between(first, bindparam("last_position", 2**63 - 1, type_=BigInteger))


def texts(name: str) -> BindParameter[Sequence[Any]]:
    """Return a parameter ``name`` that takes a sequence of strings."""
    return bindparam(name, type_=ListOf(Text()))


class RowList(TypeDecorator[Sequence[Any]]):
    """A list of rows, each a mapping of plain values by name, bound as JSON text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Sequence[Any] | None, dialect: Dialect) -> str | None:
        """Spell JSON."""
        return None if value is None else msgspec.json.encode(value).decode()


class characters_in(FunctionElement[int]):  # noqa: N801  # reads as an SQL function
    """How many characters a text has; what MySQL calls ``length`` counts bytes."""

    type = Integer()
    inherit_cache = True
    name = "length"


class TransactionId(TypeDecorator[int]):
    """The number of a transaction: as wide as it ever gets on PostgreSQL, and nothing elsewhere."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose PostgreSQL's own type, which does not wrap around."""
        return dialect.type_descriptor(_Xid8() if dialect.name == "postgresql" else BigInteger())


class _Xid8(UserDefinedType[int]):
    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "XID8"


class current_transaction(FunctionElement[int]):  # noqa: N801  # reads as an SQL function
    """The number of the outermost transaction that executes this; 0 where transactions have none."""

    type = BigInteger()
    inherit_cache = True
    name = "current_transaction"


@compiles(current_transaction, "postgresql")
def _transaction_postgresql(element: current_transaction, compiler: SQLCompiler, **_: Any) -> str:
    return "pg_current_xact_id()"


class is_passed(FunctionElement[Any]):  # noqa: N801  # reads as an SQL operator
    """``is_passed(position, transaction_id, since, until, at)``: a sequence relay's cursor has passed the record.

    The cursor stands at the position ``at`` of what the snapshot ``until`` sees and ``since`` does not.
    """

    type = NullType()
    inherit_cache = True
    name = "is_passed"


class may_be_pending(FunctionElement[Any]):  # noqa: N801  # reads as an SQL operator
    """``may_be_pending(transaction_id, since)``: an index's way to leave out what a cursor passed long ago."""

    type = NullType()
    inherit_cache = True
    name = "may_be_pending"


class oldest_first(FunctionElement[Any]):  # noqa: N801  # reads as an SQL clause
    """``oldest_first(transaction_id, position)``: the order in which the index behind ``may_be_pending`` has them."""

    type = NullType()
    inherit_cache = True
    name = "oldest_first"


class any_of(FunctionElement[Any]):  # noqa: N801  # reads as an SQL operator
    """``any_of(column, values)``: the column equals one of the values of a list parameter."""

    type = NullType()  # a Boolean would be rendered as "… = 1" on SQLite, which defeats the index
    inherit_cache = True
    name = "any_of"


class none_of(FunctionElement[Any]):  # noqa: N801  # reads as an SQL operator
    """``none_of(column, values)``: the column equals none of the values of a list parameter."""

    type = NullType()
    inherit_cache = True
    name = "none_of"


class among(FunctionElement[Any]):  # noqa: N801  # reads as an SQL operator
    """``among(column, subquery)``: the column equals one of the values that the subquery returns.

    The subquery runs once and is never joined: PostgreSQL plans a prepared statement without knowing how long the
    lists in it are, and would run one side of the join again for every row of the other.
    """

    type = NullType()
    inherit_cache = True
    name = "among"


class each_of(FunctionElement[Any]):  # noqa: N801  # reads as an SQL function
    """The values of a list parameter as rows; use ``values_of``."""

    inherit_cache = True
    name = "each_of"


def values_of(values: BindParameter[Sequence[Any]], kind: TypeEngine[Any]) -> TableValuedAlias:
    """Return the list parameter ``values`` as a table with one column ``value``."""
    return each_of(values).table_valued(
        column("value", kind), name="value"
    )  # PostgreSQL names the column after the table


class each_row(FunctionElement[Any]):  # noqa: N801  # reads as an SQL function
    """The rows of a list parameter, with the columns named; use ``rows_of``."""

    inherit_cache = True
    name = "each_row"


def rows_of(name: str, **kinds: TypeEngine[Any]) -> TableValuedAlias:
    """Return a parameter ``name`` that takes rows, as a table with the columns ``kinds``, texts or integers."""
    columns: list[Any] = [column(each, kind) for each, kind in kinds.items()]
    return each_row(bindparam(name, type_=RowList()), *columns).table_valued(*columns, name="given")


def _is_text(kind: TypeEngine[Any]) -> bool:
    return isinstance(kind, String)


def _array(values: ColumnElement[Any], compiler: SQLCompiler, **options: Any) -> str:
    """Render the array that a list parameter means; text is turned into one once and not for every row."""
    value = compiler.process(values, **options)
    if isinstance(values.type, PositionList):
        return f"CAST((SELECT CAST({value} AS BIGINT[])) AS BIGINT[])"
    return value


@compiles(is_passed, "postgresql")
def _passed_postgresql(element: is_passed, compiler: SQLCompiler, **options: Any) -> str:
    position, transaction, since, until, at = (compiler.process(clause, **options) for clause in element.clauses)
    return (
        f"(pg_visible_in_snapshot({transaction}, CAST({since} AS pg_snapshot)) OR ({position} <= {at}"
        f" AND pg_visible_in_snapshot({transaction}, CAST({until} AS pg_snapshot))))"
    )


@compiles(is_passed, "sqlite")
def _passed_sqlite(element: is_passed, compiler: SQLCompiler, **options: Any) -> str:
    position, _, since, _, at = element.clauses
    parts = (compiler.process(clause, **options) for clause in (position, since, position, at))
    return "({} <= CAST({} AS INTEGER) OR {} <= {})".format(*parts)


@compiles(may_be_pending, "postgresql")
def _pending_postgresql(element: may_be_pending, compiler: SQLCompiler, **options: Any) -> str:
    transaction, since = (compiler.process(clause, **options) for clause in element.clauses)
    oldest = f"COALESCE(pg_snapshot_xmin(CAST({since} AS pg_snapshot)), CAST('0' AS xid8))"
    return f"{transaction} BETWEEN {oldest} AND CAST('{2**64 - 1}' AS xid8)"  # a range is taken for a narrow one


@compiles(may_be_pending)
def _pending_anywhere(element: may_be_pending, compiler: SQLCompiler, **_: Any) -> str:
    return "1 = 1"


@compiles(oldest_first, "postgresql")
def _oldest_postgresql(element: oldest_first, compiler: SQLCompiler, **options: Any) -> str:
    return ", ".join(compiler.process(clause, **options) for clause in element.clauses)


@compiles(oldest_first)
def _oldest_anywhere(element: oldest_first, compiler: SQLCompiler, **options: Any) -> str:
    _, position = element.clauses
    return compiler.process(position, **options)


@compiles(any_of, "postgresql")
def _any_postgresql(element: any_of, compiler: SQLCompiler, **options: Any) -> str:
    compared, values = element.clauses
    return f"{compiler.process(compared, **options)} = ANY ({_array(values, compiler, **options)})"


@compiles(any_of, "sqlite")
def _any_sqlite(element: any_of, compiler: SQLCompiler, **options: Any) -> str:
    compared, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{compared} IN (SELECT value FROM json_each({values}))"


@compiles(none_of, "postgresql")
def _none_postgresql(element: none_of, compiler: SQLCompiler, **options: Any) -> str:
    compared, values = element.clauses
    listed = f"SELECT unnest({_array(values, compiler, **options)})"  # hashed; a prepared "<> ALL" compares one by one
    return f"{compiler.process(compared, **options)} NOT IN ({listed})"


@compiles(none_of, "sqlite")
def _none_sqlite(element: none_of, compiler: SQLCompiler, **options: Any) -> str:
    compared, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{compared} NOT IN (SELECT value FROM json_each({values}))"


@compiles(among, "postgresql")
def _among_postgresql(element: among, compiler: SQLCompiler, **options: Any) -> str:
    compared, subquery = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{compared} = ANY (ARRAY{subquery})"


@compiles(among, "sqlite")
def _among_sqlite(element: among, compiler: SQLCompiler, **options: Any) -> str:
    compared, subquery = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{compared} IN {subquery}"


@compiles(each_of, "postgresql")
def _each_postgresql(element: each_of, compiler: SQLCompiler, **options: Any) -> str:
    return f"unnest({compiler.process(element.clauses, **options)})"


@compiles(each_of, "sqlite")
def _each_sqlite(element: each_of, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(each_row, "postgresql")
def _rows_postgresql(element: each_row, compiler: SQLCompiler, **options: Any) -> str:
    rows, *columns = element.clauses
    kinds = ", ".join(f"{each.name} {'TEXT' if _is_text(each.type) else 'BIGINT'}" for each in columns)
    return f"(SELECT * FROM json_to_recordset(CAST({compiler.process(rows, **options)} AS JSON)) AS listed({kinds}))"


@compiles(each_row, "sqlite")
def _rows_sqlite(element: each_row, compiler: SQLCompiler, **options: Any) -> str:
    rows, *columns = element.clauses
    fields = ", ".join(f"json_extract(value, '$.{each.name}') AS {each.name}" for each in columns)
    return f"(SELECT {fields} FROM json_each({compiler.process(rows, **options)}))"


@compiles(current_transaction)
def _no_transaction(element: current_transaction, compiler: SQLCompiler, **_: Any) -> str:
    return "0"


@compiles(is_passed)
def _nothing_is_passed(element: is_passed, compiler: SQLCompiler, **_: Any) -> str:
    return "1 = 0"


@compiles(characters_in)
@compiles(any_of)
@compiles(none_of)
@compiles(among)
@compiles(each_of)
@compiles(each_row)
def _for_people(element: FunctionElement[Any], compiler: SQLCompiler, **options: Any) -> str:
    """Render for ``str()``, as in an error's text; no database is asked to run this."""
    return f"{element.name}({compiler.process(element.clauses, **options)})"
