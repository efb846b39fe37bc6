"""How MySQL and MariaDB spell what the other databases say in `expressions`.

A conflict is never met by ``INSERT IGNORE``, which also cuts values to length and swallows other errors
(RELIABILITY G3): only the duplicate key is let pass.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Integer, String, Table, UnicodeText, bindparam, literal_column
from sqlalchemy.dialects.mysql.base import MySQLCompiler
from sqlalchemy.dialects.postgresql.dml import OnConflictDoNothing, OnConflictDoUpdate
from sqlalchemy.exc import CompileError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.elements import KeyedColumnElement
from sqlalchemy.sql.visitors import replacement_traverse
from sqlalchemy.types import TypeEngine

from pillarbox.relational.expressions import (
    ListOf,
    PositionList,
    among,
    any_of,
    characters_in,
    each_of,
    each_row,
    none_of,
)
from pillarbox.relational.mysql_types import BOTH


@compiles(characters_in, *BOTH)
def _characters(element: characters_in, compiler: MySQLCompiler, **options: Any) -> str:
    return f"char_length({compiler.process(element.clauses, **options)})"


@compiles(any_of, *BOTH)
def _any(element: any_of, compiler: MySQLCompiler, **options: Any) -> str:
    compared, values = element.clauses
    return compiler.process(compared.in_(_spelled_out(values)), **options)


@compiles(none_of, *BOTH)
def _none(element: none_of, compiler: MySQLCompiler, **options: Any) -> str:
    compared, values = element.clauses
    return compiler.process(compared.not_in(_spelled_out(values)), **options)


@compiles(among, *BOTH)
def _among(element: among, compiler: MySQLCompiler, **options: Any) -> str:
    compared, subquery = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{compared} IN {subquery}"


@compiles(each_of, *BOTH)
def _each(element: each_of, compiler: MySQLCompiler, **options: Any) -> str:
    (values,) = element.clauses
    kind = "VARCHAR(600)" if isinstance(_item(values), String) else "BIGINT"
    return f"JSON_TABLE({compiler.process(values, **options)}, '$[*]' COLUMNS (value {kind} PATH '$' ERROR ON ERROR))"


@compiles(each_row, *BOTH)
def _rows(element: each_row, compiler: MySQLCompiler, **options: Any) -> str:
    rows, *columns = element.clauses
    fields = ", ".join(
        f"{each.name} {_kind(each.type)} PATH '$.{each.name}' NULL ON EMPTY ERROR ON ERROR" for each in columns
    )
    return f"JSON_TABLE({compiler.process(rows, **options)}, '$[*]' COLUMNS ({fields}))"


def _kind(given: TypeEngine[Any]) -> str:
    """Return what a column is read as: long text only where it is asked for, since that is compared with no index."""
    if isinstance(given, UnicodeText):
        return "LONGTEXT"
    return "VARCHAR(600)" if isinstance(given, String) else "BIGINT"


@compiles(OnConflictDoNothing, *BOTH)
def _do_nothing(_clause: OnConflictDoNothing, compiler: MySQLCompiler, **_: Any) -> str:
    """Assign a column to itself, which only locks the row that is there."""
    statement: Any = compiler.current_executable
    table: Table = statement.table
    column = next(iter(table.primary_key))
    quoted = f"{compiler.preparer.format_table(table)}.{compiler.preparer.quote(column.name)}"
    return f"ON DUPLICATE KEY UPDATE {compiler.preparer.quote(column.name)} = {quoted}"


@compiles(OnConflictDoUpdate, *BOTH)
def _do_update(clause: OnConflictDoUpdate, compiler: MySQLCompiler, **options: Any) -> str:
    """Assign; what was to be inserted is called VALUES(…) here.

    Assignments are made from left to right and see each other, so none may read a column that one before it wrote.
    """
    if clause.update_whereclause is not None:
        raise CompileError("MySQL updates a conflicting row under no condition")
    statement: Any = compiler.current_executable
    inserted: ReadOnlyColumnCollection[str, Any] = statement.excluded

    def replace(element: Any, **_: Any) -> ColumnElement[Any] | None:
        name = element.key if isinstance(element, KeyedColumnElement) else None
        if name is not None and inserted.get(name) is element:
            return literal_column(f"VALUES({compiler.preparer.quote(str(name))})")
        return None

    def assignment(column: Any, value: ColumnElement[Any]) -> str:
        name = column if isinstance(column, str) else column.name
        rendered = compiler.process(replacement_traverse(value, {}, replace).self_group(), **options)
        return f"{compiler.preparer.quote(name)} = {rendered}"

    wanted = dict(clause.update_values_to_set)  # pairs in SQLAlchemy 2.0
    assignments = [assignment(column, value) for column, value in wanted.items()]
    return f"ON DUPLICATE KEY UPDATE {', '.join(assignments)}"


def _spelled_out(values: ColumnElement[Any]) -> BindParameter[Any]:
    """Return the list parameter ``values`` as one that SQLAlchemy spells out, empty lists included."""
    if not isinstance(values, BindParameter):
        raise CompileError("a list is a parameter here")
    return bindparam(values.key, expanding=True, type_=_item(values))


def _item(values: ColumnElement[Any]) -> Any:
    if isinstance(values.type, PositionList):
        return Integer()
    return values.type.item if isinstance(values.type, ListOf) else String()
