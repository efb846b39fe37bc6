"""The column types of MySQL and MariaDB, where the tables would else be too narrow or compare too loosely."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Dialect, LargeBinary, String
from sqlalchemy.dialects.mysql import VARBINARY
from sqlalchemy.dialects.mysql.base import MySQLTypeCompiler
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import TypeDecorator

BOTH = ("mysql", "mariadb")
"""What SQLAlchemy calls the two, as the URL says."""

_OPTIONS = {"engine": "InnoDB", "default_charset": "utf8mb4"}
TABLE_OPTIONS: dict[str, Any] = {f"{name}_{option}": value for name in BOTH for option, value in _OPTIONS.items()}
"""Of every table, whatever the server's defaults are."""


class BinaryText(String):
    """A text compared byte by byte, spaces at its end included (RELIABILITY A13)."""


@compiles(BinaryText, *BOTH)
def _binary_text(kind: BinaryText, compiler: MySQLTypeCompiler, **_: Any) -> str:
    collation = "utf8mb4_nopad_bin" if compiler.dialect.is_mariadb else "utf8mb4_0900_bin"
    return f"VARCHAR({kind.length}) CHARACTER SET utf8mb4 COLLATE {collation}"


class BinaryKey(TypeDecorator[str]):
    """A text kept as its bytes in UTF-8: the columns of an index may not exceed 3,072 bytes together."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, length: int) -> None:
        """Keep up to ``length`` bytes."""
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """Choose the type that an index takes whole."""
        return dialect.type_descriptor(VARBINARY(self.length))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        """Encode."""
        return None if value is None else value.encode()

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:
        """Decode."""
        return None if value is None else bytes(value).decode()
