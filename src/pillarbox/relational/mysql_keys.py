"""What is named by a whole key is found by that key, on MySQL and MariaDB.

A statement that names a good part of a small table's rows is planned there as a walk over the table, or over all rows
that begin like them, in which it locks the rows of others and waits for theirs: two consumers at messages of their own
end in a deadlock.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    ColumnElement,
    Delete,
    Dialect,
    Executable,
    FromClause,
    Select,
    Table,
    UniqueConstraint,
    Update,
    and_,
    bindparam,
)
from sqlalchemy.dialects.mysql.base import MySQLCompiler
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, BooleanClauseList
from sqlalchemy.sql.visitors import InternalTraversal

from pillarbox.relational.expressions import ListOf, any_of, rows_of, values_of
from pillarbox.relational.mysql_types import BOTH


class KeyedDelete(Executable, ClauseElement):
    """A DELETE of the rows that a unique index finds for each row of ``given``; one of a single table takes no hint."""

    inherit_cache = True
    _traverse_internals: Any = [  # noqa: RUF012  # SQLAlchemy's way to tell what a statement consists of
        ("table", InternalTraversal.dp_clauseelement),
        ("index", InternalTraversal.dp_string),
        ("given", InternalTraversal.dp_clauseelement),
        ("condition", InternalTraversal.dp_clauseelement),
    ]

    def __init__(self, table: Table[Any], index: str, given: FromClause, condition: ColumnElement[bool]) -> None:
        """Delete from ``table`` what fits ``condition``, which says of every column of ``index`` what it equals."""
        self.table = table
        self.index = index
        self.given = given
        self.condition = condition


class InOrder(ListOf):
    """A list bound as JSON in the order of an index, each value once: so everybody locks in one order."""

    cache_ok = True

    def process_bind_param(self, value: Sequence[Any] | None, dialect: Dialect) -> str | None:
        """Spell JSON."""
        return None if value is None else json.dumps(sorted(set(value)))


@lru_cache(maxsize=512)
def by_its_key(statement: Executable) -> Executable:
    """Return ``statement`` held to a unique index, if it locks or changes rows of which it names the whole key.

    Every other statement is returned as it is: the server chooses.
    """
    table = _locked_table(statement)
    if table is None:
        return statement
    locking = cast("Select[Any] | Update | Delete", statement)
    conditions = list(_conjuncts(locking.whereclause))
    index = _whole_key(table, {name for condition in conditions for name in _named(condition)})
    if index is None:
        return statement
    if isinstance(locking, Update):  # of one table: a range of its index is all that is left to choose
        return _hinted(locking, index)
    lists = [one for one in conditions if list(_named(one)) and getattr(one, "operator", None) is not operators.eq]
    if len(lists) != 1 or not isinstance(lists[0], any_of):  # one row; or two lists: many rows may fit one of each
        return statement
    compared, values = lists[0].clauses
    given = values_of(_in_order(cast("BindParameter[Any]", values)), compared.type)
    condition = and_(compared == given.c.value, *(one for one in conditions if one is not lists[0]))
    if isinstance(locking, Delete):
        return KeyedDelete(table, index, given, condition)
    return _joined(locking, table, index, given, condition)


def _in_order(values: BindParameter[Any]) -> BindParameter[Any]:
    kind = values.type
    return bindparam(values.key, type_=InOrder(kind.item if isinstance(kind, ListOf) else BigInteger()))


def _hinted(statement: Update, index: str) -> Update:
    for dialect in BOTH:
        statement = statement.with_hint(f"FORCE INDEX ({index})", dialect_name=dialect)
    return statement


def _joined(
    statement: Any, table: Table[Any], index: str, given: FromClause, condition: ColumnElement[bool]
) -> Executable:
    """Return the SELECT ``statement`` under ``condition``, looking rows up by the index for each row of ``given``."""
    joined: Any = statement._clone()
    joined._where_criteria = (condition,)
    joined = joined.select_from(given, table)
    for dialect in BOTH:
        joined = joined.prefix_with("STRAIGHT_JOIN", dialect=dialect)
        joined = joined.with_hint(table, f"FORCE INDEX ({index})", dialect)
    return cast("Executable", joined)


def deleted_if_found(table: Table[Any], rows: str) -> Executable:
    """Return the deletion of rows of ``table`` whose primary keys are the rows of the parameter ``rows``."""
    key = list(table.primary_key)
    given = rows_of(rows, **{column.name: column.type for column in key})
    return KeyedDelete(table, "PRIMARY", given, and_(*(column == given.c[column.name] for column in key)))


def _locked_table(statement: Any) -> Table[Any] | None:
    """Return the only table whose rows ``statement`` locks or changes; ``None`` if it does neither, or joins."""
    if isinstance(statement, (Update, Delete)):
        table = cast("Table[Any]", statement.table)
        parts: list[Any] = [statement.whereclause, *(getattr(statement, "_values", None) or {}).values()]
        others = (each for part in parts if part is not None for each in part._from_objects)
        return table if all(each is table for each in others) else None
    if getattr(statement, "_for_update_arg", None) is not None:
        tables: list[Any] = statement.get_final_froms()
        only: Any = tables[0] if len(tables) == 1 else None
        return only if type(only) is Table else None
    return None


def _conjuncts(condition: Any) -> Iterator[Any]:
    if isinstance(condition, BooleanClauseList) and condition.operator is operators.and_:
        for part in condition.clauses:
            yield from _conjuncts(part)
    elif condition is not None:
        yield condition


def _named(condition: Any) -> Iterator[str]:
    """Yield the column that must equal a value, or one of a list."""
    match condition:
        case any_of():
            compared, values = condition.clauses
        case BinaryExpression(operator=operators.eq | operators.in_op, left=compared, right=values):
            pass
        case _:
            return
    if isinstance(getattr(compared, "table", None), Table) and isinstance(values, BindParameter):
        yield compared.name


def _whole_key(table: Table[Any], named: Collection[str]) -> str | None:
    """Return the unique index of which every column is named, the primary key before others."""
    keys = {"PRIMARY": [column.name for column in table.primary_key]}
    unique = [each for each in table.constraints if isinstance(each, UniqueConstraint)]
    keys |= {str(each.name): [column.name for column in each.columns] for each in unique}
    return next((name for name, columns in keys.items() if set(columns) <= set(named)), None)


@compiles(KeyedDelete, *BOTH)
def _keyed_delete(element: KeyedDelete, compiler: MySQLCompiler, **options: Any) -> str:
    table = compiler.process(element.table, asfrom=True, **options)
    condition = compiler.process(element.condition, **options)
    given = compiler.process(element.given, asfrom=True, **options)
    return f"DELETE {table} FROM {given} STRAIGHT_JOIN {table} FORCE INDEX ({element.index}) ON {condition}"
