"""Programs in the caller's own transaction, on every kind of connection."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    Dialect,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    insert,
    select,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType, TypeDecorator, TypeEngine

from pillarbox.errors import InternalError
from pillarbox.transaction import Execute, Program, Rows
from tests.integration.callers import ON_POSTGRESQL, ON_SQLITE, Caller

parcels = Table(
    "parcels",
    MetaData(),
    Column("id", BigInteger, primary_key=True),
    Column("note", Text),
    Column("body", LargeBinary),
    Column("weight", BigInteger),
)
SCHEMA = {
    "sqlite": "CREATE TABLE parcels (id INTEGER PRIMARY KEY, note TEXT, body BLOB, weight BIGINT)",
    "postgresql": "CREATE TABLE parcels (id BIGINT PRIMARY KEY, note TEXT, body BYTEA, weight BIGINT)",
}


class Numbers(TypeDecorator[Sequence[int]]):
    """A list bound as one value."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(ARRAY(BigInteger) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: Sequence[int] | None, dialect: Dialect) -> Any:
        return value if dialect.name == "postgresql" else json.dumps(value)


class among(FunctionElement[Any]):  # noqa: N801
    """A construct that each database spells its own way."""

    type = NullType()
    inherit_cache = True
    compilations = 0


@compiles(among, "sqlite")
def _among_sqlite(element: among, compiler: SQLCompiler, **options: Any) -> str:
    among.compilations += 1
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"


@compiles(among, "postgresql")
def _among_postgresql(element: among, compiler: SQLCompiler, **options: Any) -> str:
    among.compilations += 1
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} = ANY ({values})"


INSERT = insert(parcels)
INSERT_RETURNING = insert(parcels).returning(parcels.c.id, parcels.c.note)
SELECT = select(parcels).order_by(parcels.c.id)
SELECT_AMONG = select(parcels.c.id).where(among(parcels.c.id, bindparam("ids", type_=Numbers()))).order_by(parcels.c.id)
FIRST = {"id": 1, "note": "first", "body": b"\x00\xff", "weight": 7}


def do(statement: Any, parameters: Any = None) -> Program[Rows]:
    return (yield Execute(statement, parameters))


def plain(rows: Rows) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in rows]


@pytest.fixture(params=[*(f"sqlite:{name}" for name in ON_SQLITE), *(f"postgresql:{name}" for name in ON_POSTGRESQL)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest, kind: str) -> str:
    return str(request.getfixturevalue("postgresql_module_url" if kind.startswith("postgresql") else "sqlite_url"))


@pytest.fixture
def stored(url: str) -> Iterator[Callable[[], list[int]]]:
    """What another connection sees."""
    if url.startswith("sqlite"):
        connection: Any = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    else:
        connection = psycopg.connect(url, autocommit=True, options="-c lock_timeout=2000")
    connection.execute("DROP TABLE IF EXISTS parcels")
    connection.execute(SCHEMA[url.split(":", maxsplit=1)[0]])
    yield lambda: [row[0] for row in connection.execute("SELECT id FROM parcels ORDER BY id").fetchall()]
    connection.close()


@pytest.fixture
async def caller(
    kind: str, url: str, stored: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Caller]:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    database, name = kind.split(":")
    async with (ON_SQLITE if database == "sqlite" else ON_POSTGRESQL)[name](url) as opened:
        yield opened


async def test_what_a_program_wrote_is_seen_by_others_once_the_caller_commits(
    caller: Caller, stored: Callable[[], list[int]]
) -> None:
    await caller.own("begin")
    await caller.run(do(INSERT, FIRST))
    before = stored()
    await caller.own("commit")

    assert before == []
    assert stored() == [1]


async def test_what_a_program_wrote_is_gone_when_the_caller_rolls_back(
    caller: Caller, stored: Callable[[], list[int]]
) -> None:
    await caller.own("begin")
    await caller.run(do(INSERT, FIRST))
    await caller.own("rollback")

    assert stored() == []


async def test_what_was_written_in_a_savepoint_that_is_rolled_back_is_gone(
    caller: Caller, stored: Callable[[], list[int]]
) -> None:
    await caller.own("begin")
    await caller.run(do(INSERT, FIRST))
    await caller.own("execute", "SAVEPOINT inner_point")
    await caller.run(do(INSERT, {"id": 2}))
    await caller.own("execute", "ROLLBACK TO SAVEPOINT inner_point")
    await caller.run(do(INSERT, {"id": 3}))
    await caller.own("commit")

    assert stored() == [1, 3]


async def test_a_released_savepoint_is_gone_when_the_caller_rolls_back(
    caller: Caller, stored: Callable[[], list[int]]
) -> None:
    await caller.own("begin")
    await caller.run(do(SELECT))
    await caller.own("execute", "SAVEPOINT inner_point")
    await caller.run(do(INSERT, FIRST))
    await caller.own("execute", "RELEASE SAVEPOINT inner_point")
    await caller.own("rollback")

    assert stored() == []


@pytest.mark.parametrize(
    "row",
    [
        (1, "plain", b"bytes", 7),
        (2, None, None, None),
        (3, "", b"", 0),
        (4, "Пошта ✉ 'quoted' 100% :name ? $1", bytes(range(256)), -(2**63)),
    ],
    ids=["plain", "none", "empty", "unicode"],
)
async def test_every_value_comes_back_as_it_went(caller: Caller, row: tuple[Any, ...]) -> None:
    await caller.own("begin")
    await caller.run(do(INSERT, dict(zip(("id", "note", "body", "weight"), row, strict=True))))
    rows = await caller.run(do(SELECT))

    assert plain(rows) == [row]


async def test_a_list_travels_as_one_value(caller: Caller) -> None:
    await caller.own("begin")
    await caller.run(do(INSERT, [{"id": number} for number in range(1, 6)]))

    assert plain(await caller.run(do(SELECT_AMONG, {"ids": [2, 4, 9]}))) == [(2,), (4,)]
    assert plain(await caller.run(do(SELECT_AMONG, {"ids": []}))) == []


async def test_a_statement_is_executed_once_for_each_set_of_parameters(
    caller: Caller, stored: Callable[[], list[int]]
) -> None:
    await caller.own("begin")
    rows = await caller.run(do(INSERT, [{"id": number, "note": str(number)} for number in range(1, 301)]))
    none = await caller.run(do(INSERT, []))
    await caller.own("commit")

    assert (rows, none) == ((), ())
    assert stored() == list(range(1, 301))


async def test_returning_gives_the_rows(caller: Caller) -> None:
    await caller.own("begin")
    rows = await caller.run(do(INSERT_RETURNING, FIRST))

    assert plain(rows) == [(1, "first")]


async def test_a_statement_without_rows_answers_with_none(caller: Caller) -> None:
    await caller.own("begin")

    assert len(await caller.run(do(INSERT, FIRST))) == 0
    assert len(await caller.run(do(text("UPDATE parcels SET note = :note"), {"note": "50 %"}))) == 0
    assert plain(await caller.run(do(text("SELECT id FROM parcels WHERE note LIKE '50 %'")))) == [(1,)]


async def test_returning_from_many_executions_is_refused(caller: Caller) -> None:
    await caller.own("begin")

    with pytest.raises(InternalError, match="many times"):
        await caller.run(do(INSERT_RETURNING, [{"id": 1}, {"id": 2}]))


async def test_a_program_may_handle_the_failure_of_its_statement(
    caller: Caller, stored: Callable[[], list[int]]
) -> None:
    def twice() -> Program[str]:
        yield Execute(INSERT, FIRST)
        yield Execute(text("SAVEPOINT second_try"))
        try:
            yield Execute(INSERT, FIRST)
        except Exception as error:
            yield Execute(text("ROLLBACK TO SAVEPOINT second_try"))
            yield Execute(INSERT, {"id": 2})
            return type(error).__name__
        return "no error"

    await caller.own("begin")
    name = await caller.run(twice())
    await caller.own("commit")

    assert name in {"IntegrityError", "UniqueViolation", "UniqueViolationError"}
    assert stored() == [1, 2]


async def test_a_failure_that_a_program_does_not_handle_leaves_the_transaction_to_the_caller(
    caller: Caller, stored: Callable[[], list[int]]
) -> None:
    await caller.own("begin")
    await caller.run(do(INSERT, FIRST))
    await caller.own("execute", "SAVEPOINT before_ours")
    with pytest.raises(Exception, match=r"(?i)unique"):
        await caller.run(do(INSERT, FIRST))
    await caller.own("execute", "ROLLBACK TO SAVEPOINT before_ours")
    await caller.own("commit")

    assert stored() == [1]


async def test_the_dialect_is_that_of_the_database(caller: Caller, kind: str) -> None:
    await caller.own("begin")

    assert caller.dialect_name == kind.split(":", maxsplit=1)[0]


async def test_a_statement_is_compiled_once_however_often_it_is_executed(caller: Caller) -> None:
    # one compilation may already have happened in another test: raw drivers share the memory of their dialect
    among.compilations = 0
    await caller.own("begin")

    for _ in range(20):
        await caller.run(do(SELECT_AMONG, {"ids": [1]}))

    assert among.compilations <= 1


async def test_a_second_transaction_on_the_same_connection_is_joined_too(
    caller: Caller, stored: Callable[[], list[int]]
) -> None:
    for number in (1, 2):
        await caller.own("begin")
        await caller.run(do(INSERT, {"id": number}))
        await caller.own("commit")

    assert stored() == [1, 2]
