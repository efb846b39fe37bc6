"""Statements for raw drivers are compiled once, with their values and rows converted as SQLAlchemy would."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Executable,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    bindparam,
    insert,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.sql.functions import FunctionElement

from pillarbox.errors import InternalError
from pillarbox.transaction.compiled import (
    StatementCompiler,
    asyncpg_compiler,
    psycopg_compiler,
    sqlite_compiler,
)
from pillarbox.transaction.program import Execute

parcels = Table(
    "parcels",
    MetaData(),
    Column("id", BigInteger, primary_key=True),
    Column("note", Text),
    Column("body", LargeBinary),
    Column("details", JSON),
    Column("fragile", Boolean),
    Column("price", Numeric(10, 2)),
    Column("at", DateTime),
)
stamped = Table(
    "stamped",
    MetaData(),
    Column("id", BigInteger, primary_key=True),
    Column("kind", Text, default="letter"),
    Column("code", Text, default=lambda: "c-1", onupdate=lambda: "c-2"),
)

POSTGRESQL = [asyncpg_compiler, psycopg_compiler]
ALL = [*POSTGRESQL, sqlite_compiler]


class counted(FunctionElement[int]):  # noqa: N801
    """Counts how often it is compiled."""

    type = BigInteger()
    inherit_cache = True
    compilations = 0


@compiles(counted)
def _counted(_element: counted, _compiler: SQLCompiler, **_: Any) -> str:
    counted.compilations += 1
    return "1"


class Shout(Executable, ClauseElement):
    """A statement of its own, as the idempotent operations are."""

    inherit_cache = False

    def __init__(self) -> None:
        self.note = bindparam("note", type_=Text())


@compiles(Shout)
def _shout(element: Shout, compiler: SQLCompiler, **options: Any) -> str:
    return f"SELECT upper({compiler.process(element.note, **options)})"


def test_asyncpg_gets_numbered_placeholders() -> None:
    compiled = asyncpg_compiler().compile(Execute(insert(parcels), {"id": 1, "note": "ü"}))

    assert compiled.sql == "INSERT INTO parcels (id, note) VALUES ($1::BIGINT, $2::VARCHAR)"
    assert compiled.positional({"note": "ü", "id": 1}) == (1, "ü")


def test_psycopg_gets_named_placeholders_and_doubled_percents() -> None:
    wanted = Execute(text("SELECT :note LIKE 'a%'"), {"note": "abc"})

    compiled = psycopg_compiler().compile(wanted)

    assert compiled.sql == "SELECT %(note)s LIKE 'a%%'"
    assert compiled.named({"note": "abc"}) == {"note": "abc"}


def test_a_parameter_name_that_psycopg_cannot_spell_is_escaped_on_both_sides() -> None:
    compiled = psycopg_compiler().compile(Execute(select(bindparam("a:b", type_=Text())), {"a:b": "x"}))

    (name,) = compiled.named({"a:b": "x"})
    assert f"%({name})s" in compiled.sql


def test_sqlite_gets_question_marks_in_order() -> None:
    note_of = update(parcels).where(parcels.c.id == bindparam("which")).values(note=bindparam("text"))

    compiled = sqlite_compiler().compile(Execute(note_of, {"which": 7, "text": None}))

    assert compiled.sql == "UPDATE parcels SET note=? WHERE parcels.id = ?"
    assert compiled.positional({"which": 7, "text": None}) == (None, 7)


@pytest.mark.parametrize("compiler", ALL)
def test_a_construct_of_ones_own_compiles(compiler: Any) -> None:
    compiled = compiler().compile(Execute(Shout(), {"note": "hear"}))

    assert compiled.sql.startswith("SELECT upper(")
    assert compiled.positional({"note": "hear"}) == ("hear",)


@pytest.mark.parametrize("compiler", ALL)
def test_a_definition_has_no_values(compiler: Any) -> None:
    compiled = compiler().compile(Execute(CreateTable(stamped)))

    assert "CREATE TABLE stamped" in compiled.sql
    assert compiled.positional(None) == ()


@pytest.mark.parametrize("compiler", ALL)
def test_the_same_statement_is_compiled_once(compiler: Any) -> None:
    statement, other = select(counted()), select(counted())
    counted.compilations = 0

    first = compiler().compile(Execute(statement))
    again = [compiler().compile(Execute(statement)) for _ in range(5)]
    compiler().compile(Execute(other))

    assert all(compiled is first for compiled in again)
    assert counted.compilations == 2


def test_other_parameter_names_are_another_variant_of_the_statement() -> None:
    statement = insert(parcels)

    short = sqlite_compiler().compile(Execute(statement, {"id": 1}))
    long = sqlite_compiler().compile(Execute(statement, {"id": 1, "note": "x"}))

    assert short.sql == "INSERT INTO parcels (id) VALUES (?)"
    assert long.sql == "INSERT INTO parcels (id, note) VALUES (?, ?)"
    assert sqlite_compiler().compile(Execute(statement, {"note": "y", "id": 2})) is long


def test_a_statement_is_forgotten_when_nobody_else_holds_it() -> None:
    compiler = StatementCompiler(sqlite_compiler()._dialect)
    statement = update(stamped).where(stamped.c.id == bindparam("which"))
    compiler.compile(Execute(statement, {"which": 1}))
    assert len(compiler._known) == 1

    del statement
    gc.collect()

    assert len(compiler._known) == 0


AMONG = (
    update(stamped)
    .where(stamped.c.id.in_(bindparam("ids", expanding=True)), stamped.c.kind != bindparam("not_kind"))
    .where(stamped.c.code.in_(["a", "b"]))
)


@pytest.mark.parametrize(
    ("ids", "places", "values"),
    [
        ([7], "IN (?) AND stamped.kind != ? AND stamped.code IN (?, ?)", (7, "x", "a", "b")),
        ([7, 8, 9], "IN (?, ?, ?) AND stamped.kind != ? AND stamped.code IN (?, ?)", (7, 8, 9, "x", "a", "b")),
        (
            [],
            "IN (SELECT 1 FROM (SELECT 1) WHERE 1!=1) AND stamped.kind != ? AND stamped.code IN (?, ?)",
            ("x", "a", "b"),
        ),
    ],
)
def test_a_list_of_any_length_is_spelled_out(ids: list[int], places: str, values: tuple[object, ...]) -> None:
    given = {"ids": ids, "not_kind": "x", "kind": "letter"}

    compiled = sqlite_compiler().compile(Execute(AMONG, given))

    assert compiled.sql.endswith(places)
    assert compiled.positional(given) == ("letter", "c-2", *values), "with what the table's columns bring along"


def test_a_list_is_spelled_out_with_the_placeholders_of_the_driver() -> None:
    given = {"ids": [7, 8], "not_kind": "x"}

    by_asyncpg = asyncpg_compiler().compile(Execute(AMONG, given))
    by_psycopg = psycopg_compiler().compile(Execute(AMONG, given))

    places = [f"${at}::" for at in range(1, 7)]
    assert [place for place in places if place in by_asyncpg.sql] == places, by_asyncpg.sql
    assert sorted(map(str, by_asyncpg.positional(given))) == ["7", "8", "a", "b", "c-2", "x"]
    assert sorted(map(str, by_psycopg.named(given).values())) == ["7", "8", "a", "b", "c-2", "x"]
    assert all(f"%({name})s" in by_psycopg.sql for name in by_psycopg.named(given))


def test_members_of_a_list_are_converted() -> None:
    statement = select(parcels.c.id).where(parcels.c.details.in_(bindparam("those", expanding=True)))
    given = {"those": [{"a": 1}]}

    assert sqlite_compiler().compile(Execute(statement, given)).positional(given) == ('{"a": 1}',)


@pytest.mark.parametrize("compiler", ALL)
def test_a_list_in_many_executions_is_refused(compiler: Any) -> None:
    with pytest.raises(InternalError, match="many times"):
        compiler().compile(Execute(AMONG, [{"ids": [1], "not_kind": "x"}, {"ids": [2], "not_kind": "x"}]))


@pytest.mark.parametrize("compiler", ALL)
def test_returning_from_many_executions_is_refused(compiler: Any) -> None:
    with pytest.raises(InternalError, match="many times"):
        compiler().compile(Execute(insert(parcels).returning(parcels.c.id), [{"id": 1}, {"id": 2}]))


def test_what_is_no_sql_is_refused() -> None:
    with pytest.raises(InternalError, match="no SQL"):
        sqlite_compiler().compile(Execute(Executable()))


def test_a_missing_value_is_refused_by_name() -> None:
    compiled = sqlite_compiler().compile(Execute(select(bindparam("which", type_=Text())), {}))

    with pytest.raises(InternalError, match="'which'"):
        compiled.positional(None)


def test_literal_values_travel_with_the_statement() -> None:
    compiled = sqlite_compiler().compile(Execute(select(literal("fixed"), bindparam("given", "default"))))

    assert compiled.positional(None) == ("fixed", "default")
    assert compiled.positional({"given": "other"}) == ("fixed", "other")


def test_python_side_defaults_of_columns_apply_as_with_sqlalchemy() -> None:
    inserted = sqlite_compiler().compile(Execute(insert(stamped), {"id": 1}))
    given = sqlite_compiler().compile(Execute(insert(stamped), {"id": 1, "kind": "card", "code": "x"}))
    updated = sqlite_compiler().compile(Execute(update(stamped), {"kind": "card"}))

    assert inserted.positional({"id": 1}) == (1, "letter", "c-1")
    assert given.positional({"id": 1, "kind": "card", "code": "x"}) == (1, "card", "x")
    assert updated.positional({"kind": "card"}) == ("card", "c-2")


@pytest.mark.parametrize("compiler", POSTGRESQL)
def test_the_row_that_only_sqlalchemy_asked_for_is_left_out(compiler: Any) -> None:
    compiled = compiler().compile(Execute(insert(parcels), {"note": "x"}))

    assert "RETURNING" in compiled.sql
    assert compiled.rows([(1,)]) == ()


@pytest.mark.parametrize("compiler", POSTGRESQL)
def test_json_that_a_driver_left_as_text_is_decoded(compiler: Any) -> None:
    compiled = compiler().compile(Execute(select(parcels.c.details, parcels.c.price)))

    assert compiled.rows([('{"a": 1}', 3), ({"a": 1}, 4)]) == [({"a": 1}, 3), ({"a": 1}, 4)]


def test_sqlite_rows_are_converted_by_the_types_of_their_columns() -> None:
    compiled = sqlite_compiler().compile(Execute(select(parcels.c.details, parcels.c.fragile, parcels.c.at)))

    ((details, fragile, at),) = compiled.rows([(json.dumps([1]), 1, "2024-05-06 07:08:09.000000")])

    assert (details, fragile) == ([1], True)
    assert at.year == 2024


def test_rows_that_need_no_conversion_are_passed_on_as_they_came() -> None:
    compiled = sqlite_compiler().compile(Execute(select(parcels.c.id, parcels.c.body)))
    fetched = [(1, b"\x00")]

    assert compiled.rows(fetched) is fetched
    assert compiled.rows(iter(fetched)) == ((1, b"\x00"),)
