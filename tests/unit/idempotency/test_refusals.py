"""What idempotent operations refuse before they write anything, and that the error says what to do."""

from collections.abc import Iterator
from decimal import Decimal

import pytest
from sqlalchemy import (
    Column,
    Connection,
    Float,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    TypeDecorator,
    create_engine,
    func,
    inspect,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pillarbox.errors import ConfigurationError, NoTransactionError
from pillarbox.idempotency import advance_state, apply_once, insert_once, update_if_version, upsert_if_newer


class Wrapped(TypeDecorator[int]):
    impl = Integer
    cache_ok = True


rows = Table(
    "rows",
    MetaData(),
    Column("id", String(20), primary_key=True),
    Column("kind", String(20)),
    Column("whole", Integer),
    Column("exact", Numeric(10, 2)),
    Column("entire", Numeric(10)),
    Column("rough", Float),
    Column("version", Integer),
    Column("wrapped", Wrapped),
)
ONE = {"id": "1"}


class Base(DeclarativeBase):
    pass


class Animal(Base):
    __tablename__ = "animals"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]


class Dog(Animal):
    __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012


@pytest.fixture
def tx() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        yield connection
        assert not inspect(connection).has_table("pillarbox_applied_operations"), "nothing was asked of the database"
    engine.dispose()


def test_unknown_columns_are_named_with_those_that_there_are(tx: Connection) -> None:
    with pytest.raises(ConfigurationError, match="rows has no column 'stauts'; it has id, kind, whole"):
        insert_once(tx, rows, {**ONE, "stauts": "x"}, key="id")


@pytest.mark.parametrize("target", [Animal, Dog, int, object()], ids=["base", "subclass", "class", "object"])
def test_what_has_no_rows_of_its_own_is_refused(tx: Connection, target: type) -> None:
    with pytest.raises(ConfigurationError, match=r"give the Table|neither a Table nor a mapped class"):
        insert_once(tx, target, ONE, key="id")


@pytest.mark.parametrize("key", ["kind", ("id", "kind"), ()], ids=["plain", "too-wide", "empty"])
def test_a_key_that_is_not_unique_is_refused(tx: Connection, key: str) -> None:
    for operation in (insert_once, upsert_if_newer):
        with pytest.raises(ConfigurationError, match="no primary key or unique constraint"):
            operation(tx, rows, {**ONE, "kind": "x", "version": 1}, key=key)


@pytest.mark.parametrize("values", [{"kind": "x"}, {"id": None}])
def test_values_without_their_key_are_refused(tx: Connection, values: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="no id, which is part of the key"):
        insert_once(tx, rows, values, key="id")


def test_expressions_are_refused(tx: Connection) -> None:
    with pytest.raises(ConfigurationError, match="kind must be plain values"):
        insert_once(tx, rows, {**ONE, "kind": func.lower("X")}, key=rows.c.id)
    with pytest.raises(ConfigurationError, match="the key id must be plain"):
        advance_state(tx, rows, key={"id": rows.c.kind}, to="b", order=("a", "b"), column="kind")


@pytest.mark.parametrize("version", [{}, {"version": None}])
def test_an_upsert_needs_a_version(tx: Connection, version: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="no version"):
        upsert_if_newer(tx, rows, {**ONE, **version}, key="id")


@pytest.mark.parametrize(
    ("values", "key", "expected", "match"),
    [
        ({}, ONE, None, "read the row first"),
        ({}, ONE, "etag-1", "need a new 'version'"),
        ({"version": 3}, ONE, 3, "need a new 'version'"),
        ({"id": "2"}, ONE, 1, "part of the key"),
        ({}, {}, 1, "names no column"),
        ({}, {"id": None}, 1, "flush first"),
    ],
)
def test_an_update_that_nobody_would_notice_is_refused(
    tx: Connection, values: dict[str, object], key: dict[str, object], expected: object, match: str
) -> None:
    with pytest.raises(ConfigurationError, match=match):
        update_if_version(tx, rows, values, key=key, expected=expected)


@pytest.mark.parametrize(
    ("increments", "match"),
    [
        ({"whole": 1.0}, "float cannot be added exactly"),
        ({"whole": True}, "bool cannot be added exactly"),
        ({"whole": "1"}, "str cannot be added exactly"),
        ({"whole": Decimal("1.5")}, "would round 1.5"),
        ({"exact": Decimal("0.005")}, "keeps 2 places after the point and would round 0.005"),
        ({"entire": Decimal("0.4")}, "keeps 0 places after the point and would round 0.4"),
        ({"exact": Decimal("NaN")}, "is no amount"),
        ({"exact": Decimal("-Infinity")}, "is no amount"),
        ({"wrapped": Decimal("1.5")}, "would round 1.5"),
        ({"rough": 1}, "floating-point column"),
        ({"kind": 1}, "nothing can be added"),
        ({}, "needs increments="),
    ],
)
def test_amounts_that_would_be_rounded_are_refused(
    tx: Connection, increments: dict[str, int | Decimal], match: str
) -> None:
    with pytest.raises(ConfigurationError, match=match):
        apply_once(tx, rows, increments, key=ONE, operation="m-1")


@pytest.mark.parametrize(("operation", "scope"), [("", None), ("m-1", ""), ("m-1", "s" * 201)])
def test_an_operation_without_an_id_or_with_an_unfit_scope_is_refused(
    tx: Connection, operation: str, scope: str | None
) -> None:
    with pytest.raises(ConfigurationError, match=r"operation=|scope="):
        apply_once(tx, rows, {"whole": 1}, key=ONE, operation=operation, scope=scope)


def test_zeros_at_the_end_round_nothing(tx: Connection) -> None:
    with pytest.raises(ConfigurationError, match="SQLite"):  # so far it came
        apply_once(tx, rows, {"exact": Decimal("0.500")}, key=ONE, operation="m-1")


def test_values_beside_a_state_may_not_be_the_state(tx: Connection) -> None:
    for values in ({"kind": "c"}, {"id": "2"}):
        with pytest.raises(ConfigurationError, match="the state or part of the key"):
            advance_state(tx, rows, key=ONE, to="b", order=("a", "b"), column="kind", values=values)


def test_what_is_no_open_transaction_is_refused(tx: Connection) -> None:
    engine = create_engine("sqlite://", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection, pytest.raises(NoTransactionError):
        insert_once(connection, rows, ONE, key="id")
    with pytest.raises(ConfigurationError, match="not a transaction"):  # at once, and not when it is awaited
        insert_once(engine, rows, ONE, key="id")  # type: ignore[call-overload]
    engine.dispose()
