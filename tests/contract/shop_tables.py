"""The tables of a user: Core tables, and a class of the ORM."""

from __future__ import annotations

from decimal import Decimal
from enum import Enum

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy import Enum as SqlEnum
from sqlalchemy.dialects.mysql import DATETIME
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pillarbox.relational.mysql_types import BOTH, BinaryText

tables = MetaData()
Binary = String(200).with_variant(BinaryText(200), *BOTH)

orders = Table(
    "shop_orders",
    tables,
    Column("id", Binary, primary_key=True),
    Column("status", String(20)),
    Column("note", String(50)),
    Column("version", BigInteger),
)
loose = Table(  # as MariaDB makes it: a collation that ignores case and spaces at the end
    "shop_loose",
    tables,
    Column("id", String(200), primary_key=True),
    Column("status", String(20)),
    Column("version", BigInteger),
    Column("cents", BigInteger),
)


class Stage(Enum):
    """Where a parcel is."""

    PACKED = 1
    SENT = 2
    DELIVERED = 3


class Cents(TypeDecorator[int]):
    """A type of the user's own."""

    impl = BigInteger
    cache_ok = True


parcels = Table(
    "shop_parcels",
    tables,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("stage", SqlEnum(Stage)),
    Column("sent_at", DateTime),
    Column("seen_at", DateTime().with_variant(DATETIME(fsp=6), *BOTH)),
    Column("left_at", DateTime(timezone=True)),
    Column("fee", Cents),
    Column("weight", Numeric()),
)
seats = Table(
    "shop_seats",
    tables,
    Column("id", Integer, primary_key=True),
    Column("flight", Binary, nullable=False),
    Column("seat", Integer, nullable=False),
    Column("ticket", Binary, unique=True),
    UniqueConstraint("flight", "seat"),
)


class Base(DeclarativeBase):
    """The user's classes."""

    metadata = tables


class Account(Base):
    """An account; attributes are not called as their columns are."""

    __tablename__ = "shop_accounts"
    name: Mapped[str] = mapped_column("account_name", Binary, primary_key=True)
    cents: Mapped[int | None] = mapped_column("balance", BigInteger)
    owed: Mapped[Decimal | None] = mapped_column(Numeric(20, 4))
    payments: Mapped[int] = mapped_column(Integer, default=0)
    version: Mapped[int] = mapped_column(BigInteger, default=1)
