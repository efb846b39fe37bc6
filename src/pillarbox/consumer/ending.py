"""Statements by which a handler would end the transaction that it was lent, past SQLAlchemy."""

from __future__ import annotations

import re
from typing import Final

_BEFORE: Final = r"(?:\s|;|/\*.*?\*/|--[^\n]*(?:\n|\Z))*"
_ENDS: Final = r"COMMIT|END|ABORT|ROLLBACK(?!\s+(?:(?:WORK|TRANSACTION)\s+)?TO\b)|PREPARE\s+TRANSACTION"
_COMMITS: Final = (  # https://mariadb.com/kb/en/sql-statements-that-cause-an-implicit-commit/
    r"ALTER|BEGIN|START\s+TRANSACTION|CREATE(?!\s+(?:OR\s+REPLACE\s+)?TEMPORARY\b)|DROP(?!\s+TEMPORARY\b)|RENAME|TRUNCATE"
    r"|LOCK\s+TABLES?|(?:ANALYZE|CHECK|OPTIMIZE|REPAIR)\s+(?:(?:LOCAL|NO_WRITE_TO_BINLOG)\s+)?TABLES?|FLUSH|RESET"
    r"|CACHE\s+INDEX|LOAD\s+INDEX|GRANT|REVOKE|INSTALL|UNINSTALL|SET\s+(?:SESSION\s+|@@(?:SESSION\.)?)?AUTOCOMMIT"
    r"|SET\s+PASSWORD"
)
_FLAGS: Final = re.IGNORECASE | re.DOTALL
_ENDING: Final = re.compile(rf"{_BEFORE}({_ENDS})\b", _FLAGS)
_ENDING_ON_MYSQL: Final = re.compile(rf"{_BEFORE}({_ENDS}|{_COMMITS})\b", _FLAGS)


def ending_words(statement: str, dialect: str) -> str | None:
    """Return the words by which ``statement`` would end its transaction; ``None`` if it would not.

    MariaDB and MySQL commit before a statement that changes the schema. What a procedure does is not seen.
    """
    pattern = _ENDING_ON_MYSQL if dialect in ("mysql", "mariadb") else _ENDING
    found = pattern.match(statement)
    return None if found is None else " ".join(found[1].upper().split())
