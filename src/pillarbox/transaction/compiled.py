"""SQLAlchemy statements compiled for drivers that are called without SQLAlchemy, once per statement and dialect."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from sqlalchemy import JSON, Dialect, Executable, Float, Numeric
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.schema import ExecutableDDLElement
from sqlalchemy.sql.compiler import ExpandedState, SQLCompiler
from sqlalchemy.sql.elements import BindParameter, ClauseElement
from sqlalchemy.types import TypeEngine

from pillarbox.errors import InternalError
from pillarbox.transaction.program import Execute, Parameters, Row, Rows

_Processor: TypeAlias = Callable[[Any], Any]
_Variant: TypeAlias = tuple[frozenset[str], bool]

_NO_PARAMETERS: Mapping[str, object] = {}


@dataclass(frozen=True, slots=True)
class _Bind:
    """One value that the driver is given: where it comes from and how the dialect converts it."""

    key: str
    name: str
    default: Callable[[], object] | None
    process: _Processor | None

    def value(self, parameters: Mapping[str, object]) -> object:
        if self.key in parameters:
            value = parameters[self.key]
        elif self.default is not None:
            value = self.default()
        else:
            raise InternalError(f"no value for parameter {self.key!r}")
        return value if self.process is None else self.process(value)


@dataclass(frozen=True, slots=True)
class CompiledStatement:
    """The text of a statement for one dialect, and the conversions of its values and rows."""

    sql: str
    returns_rows: bool
    _binds: tuple[_Bind, ...]
    _columns: tuple[_Processor | None, ...]

    def positional(self, parameters: Mapping[str, object] | None) -> tuple[object, ...]:
        """Return the values in the order of their placeholders."""
        given = parameters or _NO_PARAMETERS
        return tuple([bind.value(given) for bind in self._binds])

    def named(self, parameters: Mapping[str, object] | None) -> dict[str, object]:
        """Return the values by the names of their placeholders."""
        given = parameters or _NO_PARAMETERS
        return {bind.name: bind.value(given) for bind in self._binds}

    def rows(self, fetched: Iterable[Row]) -> Rows:
        """Return the rows that the program asked for, converted where their types ask for it."""
        if not self.returns_rows:
            return ()
        if not self._columns:
            return fetched if isinstance(fetched, (list, tuple)) else tuple(fetched)
        return [self._row(row) for row in fetched]

    def expanded(self, state: ExpandedState) -> CompiledStatement:
        """Return the statement with its lists spelled out."""
        known = {bind.name: bind for bind in self._binds}
        binds = tuple(
            known.get(name)
            or _Bind(
                key=name, name=name, default=partial(state.parameters.get, name), process=state.processors.get(name)
            )
            for name in (state.parameters if state.positiontup is None else state.positiontup)
        )
        return replace(self, sql=state.statement, _binds=binds)

    def _row(self, row: Row) -> Row:
        pairs = zip(row, self._columns, strict=True)
        return tuple([value if process is None else process(value) for value, process in pairs])


@dataclass(frozen=True, slots=True)
class _Expanding:
    """A statement whose text depends on its values."""

    compiled: SQLCompiler
    like: CompiledStatement

    def given(self, parameters: Mapping[str, object] | None) -> CompiledStatement:
        """Return the statement for ``parameters``."""
        state = self.compiled.construct_expanded_state(dict(parameters or ()), escape_names=False)
        return self.like.expanded(state)


class StatementCompiler:
    """Compiles for one dialect and remembers each statement for as long as the statement lives."""

    def __init__(self, dialect: Dialect) -> None:
        """Compile for ``dialect``, whose driver need not be installed."""
        self._dialect = dialect
        self._known: WeakKeyDictionary[Executable, dict[_Variant, CompiledStatement | _Expanding]] = WeakKeyDictionary()

    def compile(self, execute: Execute) -> CompiledStatement:
        """Return the compiled statement, from memory when the same object came before with the same names.

        One whose text depends on the values (an ``IN`` over a list) is completed each time.

        Raises:
            InternalError: The statement returns rows, or its text depends on the values, but is executed many times.
        """
        names, many = _shape(execute.parameters)
        variants = self._known.get(execute.statement)
        if variants is None:
            variants = self._known[execute.statement] = {}
        if (names, many) not in variants:
            variants[names, many] = _compile(execute.statement, self._dialect, names, many=many)
        compiled = variants[names, many]
        return compiled if isinstance(compiled, CompiledStatement) else compiled.given(one_set(execute.parameters))


@cache
def asyncpg_compiler() -> StatementCompiler:
    """Return the compiler for asyncpg: PostgreSQL with ``$1`` placeholders."""
    return _postgresql_compiler(PGDialect_asyncpg)


@cache
def psycopg_compiler() -> StatementCompiler:
    """Return the compiler for psycopg: PostgreSQL with ``%(name)s`` placeholders."""
    return _postgresql_compiler(PGDialect_psycopg)


def _postgresql_compiler(dialect: Callable[[], Dialect]) -> StatementCompiler:
    """Give the constructors of the dialects, which SQLAlchemy left untyped, a type."""
    return StatementCompiler(dialect())


@cache
def sqlite_compiler() -> StatementCompiler:
    """Return the compiler for sqlite3 and aiosqlite: SQLite with ``?`` placeholders."""
    return StatementCompiler(SQLiteDialect_pysqlite(paramstyle="qmark"))


def many_sets(parameters: Parameters) -> Sequence[Mapping[str, object]] | None:
    """Return the sets of values of a statement executed many times; ``None`` for a statement executed once."""
    return None if parameters is None or isinstance(parameters, Mapping) or len(parameters) == 1 else parameters


def one_set(parameters: Parameters) -> Mapping[str, object] | None:
    """Return the values of a statement executed once; drivers need fewer messages for that than for many of one."""
    if parameters is None or isinstance(parameters, Mapping):
        return parameters
    return parameters[0] if len(parameters) == 1 else None


def _shape(parameters: Parameters) -> _Variant:
    many = many_sets(parameters)
    names = one_set(parameters) if many is None else many[0]
    return frozenset(names or ()), many is not None


def _compile(
    statement: Executable, dialect: Dialect, names: frozenset[str], *, many: bool
) -> CompiledStatement | _Expanding:
    if isinstance(statement, ExecutableDDLElement):
        return CompiledStatement(str(statement.compile(dialect=dialect)), returns_rows=False, _binds=(), _columns=())
    if not isinstance(statement, ClauseElement):
        raise InternalError(f"{type(statement).__qualname__} has no SQL to compile")
    compiled = statement.compile(dialect=dialect, column_keys=sorted(names), for_executemany=many)
    sql = str(compiled)
    if not isinstance(compiled, SQLCompiler):
        raise InternalError(f"{type(statement).__qualname__} is no statement: {sql}")
    # an implicit RETURNING serves SQLAlchemy's own bookkeeping; the program did not ask for its row
    implicit = bool(compiled.implicit_returning)
    if many and compiled.effective_returning and not implicit:
        raise InternalError(f"a statement that returns rows cannot be executed many times at once: {sql}")
    columns = () if implicit else _column_processors(compiled, dialect)
    known = CompiledStatement(sql, returns_rows=not implicit, _binds=_binds(compiled, dialect), _columns=columns)
    if not compiled.post_compile_params and not compiled.literal_execute_params:
        return known
    if many:
        raise InternalError(
            f"a statement whose text depends on its values cannot be executed many times at once: {sql}"
        )
    return _Expanding(compiled, like=known)


def _binds(compiled: SQLCompiler, dialect: Dialect) -> tuple[_Bind, ...]:
    parameters = {name: parameter for parameter, name in compiled.bind_names.items()}
    order = (compiled.positiontup or ()) if compiled.positional else tuple(parameters)
    generators = {column.key: column.default for column in compiled.insert_prefetch}
    generators |= {column.key: column.onupdate for column in compiled.update_prefetch}
    escaped = compiled.escaped_bind_names
    return tuple(
        _Bind(
            key=parameters[name].key,
            name=escaped.get(name, name),
            default=_default(parameters[name], generators.get(name)),
            process=parameters[name].type.dialect_impl(dialect).bind_processor(dialect),
        )
        for name in order
    )


def _default(parameter: BindParameter[Any], generator: Any) -> Callable[[], object] | None:
    if generator is not None and generator.is_callable:
        return lambda: generator.arg(None)  # as SQLAlchemy calls it, but there is no execution context to hand over
    if generator is not None and generator.is_scalar:
        return lambda: generator.arg
    return None if parameter.required else lambda: parameter.effective_value


def _column_processors(compiled: SQLCompiler, dialect: Dialect) -> tuple[_Processor | None, ...]:
    """Return one conversion per column of the result; nothing when no column needs one or none is known."""
    entries = getattr(compiled, "_result_columns", ())  # the only place where every kind of statement keeps its types
    processors = tuple(_column_processor(entry.type, dialect) for entry in entries)
    return processors if any(processors) else ()


def _column_processor(kind: TypeEngine[Any], dialect: Dialect) -> _Processor | None:
    impl = kind.dialect_impl(dialect)
    if dialect.name == "postgresql":
        if isinstance(kind, JSON):
            return _json_loaded
        if isinstance(kind, Numeric | Float):
            return None  # SQLAlchemy would ask for the driver's type code; both drivers return the right type already
    return impl.result_processor(dialect, None)


def _json_loaded(value: Any) -> Any:
    """Decode what a driver without a JSON decoder left as text: asyncpg as it comes, psycopg as Django sets it up."""
    return json.loads(value) if isinstance(value, str) else value
