"""What is named by a whole key is looked up by it; the text of the statements, as MySQL and MariaDB get it."""

from __future__ import annotations

from typing import cast

import pytest
from sqlalchemy import (
    ClauseElement,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    and_,
    delete,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.mysql import dialect
from sqlalchemy.sql import Executable

from pillarbox.relational import mysql_words as mysql_words  # noqa: PLC0414  # spells the statements
from pillarbox.relational.expressions import any_of, texts
from pillarbox.relational.mysql_keys import InOrder, by_its_key

metadata = MetaData()
rooms = Table(
    "rooms",
    metadata,
    Column("house", String(20), primary_key=True),
    Column("name", String(20), primary_key=True),
    Column("floor", Integer),
    Column("number", Integer),
    UniqueConstraint("floor", "number", name="rooms_numbers"),
)
guests = Table("guests", metadata, Column("name", String(20), primary_key=True), Column("house", String(20)))
NAMED = and_(rooms.c.house == "h", any_of(rooms.c.name, texts("names")))
LOOKED_UP = "AS value STRAIGHT_JOIN rooms FORCE INDEX (PRIMARY) ON rooms.name = value.value AND rooms.house = %s"


def text_of(statement: Executable) -> str:
    """Compile as MySQL is told, on one line."""
    compiled = cast("ClauseElement", by_its_key(statement)).compile(dialect=dialect())
    return " ".join(str(compiled).split())


def test_a_deletion_looks_up_each_of_its_list() -> None:
    text = text_of(delete(rooms).where(NAMED, rooms.c.floor > 1))

    assert text.startswith("DELETE rooms FROM JSON_TABLE(")
    assert text.endswith(f"{LOOKED_UP} AND rooms.floor > %s")


def test_a_locking_selection_looks_up_each_of_its_list() -> None:
    text = text_of(select(rooms.c.floor).where(NAMED).order_by(rooms.c.floor).with_for_update(skip_locked=True))

    assert text.startswith("SELECT STRAIGHT_JOIN rooms.floor FROM JSON_TABLE(")
    assert text.endswith(
        "AS value, rooms FORCE INDEX (PRIMARY) WHERE rooms.name = value.value AND rooms.house = %s "
        "ORDER BY rooms.floor FOR UPDATE SKIP LOCKED"
    )


def test_a_change_is_held_to_the_key() -> None:
    assert text_of(update(rooms).where(NAMED).values(floor=2)).startswith("UPDATE rooms FORCE INDEX (PRIMARY) SET")


def test_a_unique_constraint_is_a_key_too() -> None:
    named = and_(rooms.c.floor == 1, rooms.c.number.in_([1, 2]))

    assert "FORCE INDEX (rooms_numbers)" in text_of(update(rooms).where(named).values(house="h"))


@pytest.mark.parametrize(
    "statement",
    [
        select(rooms.c.floor).where(NAMED),
        delete(rooms).where(any_of(rooms.c.name, texts("names"))),
        delete(rooms).where(or_(rooms.c.house == "h", any_of(rooms.c.name, texts("names")))),
        delete(rooms).where(rooms.c.house == "h", rooms.c.name == "n"),
        delete(rooms).where(any_of(rooms.c.house, texts("houses")), any_of(rooms.c.name, texts("names"))),
        update(rooms).where(rooms.c.house == guests.c.house, rooms.c.name == "n").values(floor=2),
        update(rooms).where(NAMED).values(house=guests.c.house),
        delete(rooms).where(NAMED, rooms.c.house == guests.c.house),
        select(rooms.c.floor).where(NAMED, rooms.c.house == guests.c.house).with_for_update(),
    ],
    ids=[
        "reads",
        "part of a key",
        "or",
        "one row",
        "two lists",
        "compared with a column",
        "given by a table",
        "with a table",
        "join",
    ],
)
def test_any_other_statement_is_left_to_the_server(statement: Executable) -> None:
    assert by_its_key(statement) is statement


def test_a_list_is_looked_up_in_the_order_of_the_index_and_each_of_it_once() -> None:
    assert InOrder(String()).process_bind_param(["b", "a", "b", "\u00e9"], dialect()) == '["a", "b", "\\u00e9"]'
