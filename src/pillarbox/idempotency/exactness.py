"""Whether a column keeps a value as it is: what it would round is refused, for it could not be compared or added up."""

from __future__ import annotations

from datetime import UTC, datetime, time
from decimal import Decimal
from functools import cache
from typing import Any

from sqlalchemy import Column, DateTime, Dialect, Float, Integer, Numeric, Time, TypeDecorator

from pillarbox.errors import ConfigurationError
from pillarbox.idempotency.inserting import MYSQL

MICROSECOND_DIGITS = 6


def check_amount(column: Column[Any], amount: object) -> None:
    """Make sure that adding ``amount`` loses nothing, whatever the database.

    Raises:
        ConfigurationError: it would, or might.
    """
    kind, name = _bare(column.type), column.key
    if isinstance(amount, bool) or not isinstance(amount, (int, Decimal)):
        raise ConfigurationError(f"{name}: {type(amount).__name__} cannot be added exactly; give an int or a Decimal")
    if isinstance(kind, Float):
        raise ConfigurationError(f"{name} is a floating-point column, which rounds; use Integer or Numeric")
    if not isinstance(kind, (Integer, Numeric)):
        raise ConfigurationError(f"{name} is of type {kind!r}, to which nothing can be added")
    if isinstance(amount, int):
        return
    if not amount.is_finite():
        raise ConfigurationError(f"{name}: {amount} is no amount")
    if isinstance(kind, Integer):
        raise ConfigurationError(f"{name} is an Integer column and would round {amount}; give an int")
    places = kind.scale if kind.scale is not None or kind.precision is None else 0  # NUMERIC(10) is NUMERIC(10, 0)
    _check_places(name, amount, places)


def check_amount_on(dialect: str, column: Column[Any], amount: object) -> None:
    """Make sure that adding ``amount`` loses nothing in this database.

    Raises:
        ConfigurationError: it would.
    """
    if not isinstance(amount, Decimal):
        return
    if dialect == "sqlite":
        raise ConfigurationError(
            "SQLite keeps decimals as floating point, which rounds; keep whole cents in an Integer"
        )
    if dialect == MYSQL:  # where NUMERIC alone is NUMERIC(10, 0)
        _check_places(column.key, amount, getattr(_on_mysql(column), "scale", None) or 0)


def check_version_on(dialect: str, column: Column[Any], version: object) -> None:
    """Make sure that ``version`` is compared as it is, and not as what the column makes of it.

    Raises:
        ConfigurationError: it would be rounded, and one that is older could overwrite it.
    """
    if dialect != MYSQL or not isinstance(version, (datetime, time)):
        return
    kind = _on_mysql(column)
    if not isinstance(kind, (DateTime, Time)):
        return
    digits = int(getattr(kind, "fsp", None) or 0)
    if version.microsecond % 10 ** (MICROSECOND_DIGITS - digits):
        raise ConfigurationError(
            f"{column.key} keeps {digits} digits of a second and would round {version.isoformat()}, so that an older "
            "version could pass for a newer one; declare it as sqlalchemy.dialects.mysql.DATETIME(fsp=6)"
        )


def comparable(version: object) -> object:
    """Return ``version`` so that any database compares it: an instant in UTC, since some keep no time zone."""
    if isinstance(version, datetime) and version.utcoffset() is not None:
        return version.astimezone(UTC)
    return version


def digits_of(amount: int | Decimal) -> str:
    """Return the digits of ``amount``, without zeros at the end."""
    text = format(amount, "f") if isinstance(amount, Decimal) else str(amount)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _check_places(name: str, amount: Decimal, places: int | None) -> None:
    if places is not None and len(digits_of(amount).partition(".")[2]) > places:
        raise ConfigurationError(f"{name} keeps {places} places after the point and would round {amount}")


def _on_mysql(column: Column[Any]) -> Any:
    """Return the type that ``column`` has there, of its variants that for the server."""
    return _bare(column.type.dialect_impl(_mysql()))


@cache
def _mysql() -> Dialect:
    from sqlalchemy.dialects.mysql import dialect  # for those only who are on such a server

    return dialect()


def _bare(kind: Any) -> Any:
    return kind.impl_instance if isinstance(kind, TypeDecorator) else kind
