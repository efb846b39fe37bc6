"""Whether an error of a driver says that the tables of Pillarbox are not there."""

from __future__ import annotations

PREFIX = "pillarbox_"
UNDEFINED_TABLE = "42P01"
NO_SUCH_TABLE = 1146


def says_that_tables_are_absent(error: BaseException) -> bool:
    """Tell whether ``error``, a driver's own or SQLAlchemy's, names a table of ours that does not exist."""
    origin: BaseException = getattr(error, "orig", None) or error
    text = str(origin)
    if PREFIX not in text:
        return False
    state = getattr(origin, "sqlstate", None) or getattr(origin, "pgcode", None)
    return state == UNDEFINED_TABLE or origin.args[:1] == (NO_SUCH_TABLE,) or "no such table: " in text
