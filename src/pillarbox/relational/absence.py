"""Whether an error of a driver says that the tables of Pillarbox are not there, or that a text is none."""

from __future__ import annotations

from pillarbox.errors import ConfigurationError

PREFIX = "pillarbox_"
UNDEFINED_TABLE = "42P01"
NO_SUCH_TABLE = 1146
NO_TEXT = ("surrogates not allowed", "NUL (0x00)", '"UTF8": 0x00')
"""What drivers and servers say of a text that they do not take."""


def says_that_tables_are_absent(error: BaseException) -> bool:
    """Tell whether ``error``, a driver's own or SQLAlchemy's, names a table of ours that does not exist."""
    origin: BaseException = getattr(error, "orig", None) or error
    text = str(origin)
    if PREFIX not in text:
        return False
    state = getattr(origin, "sqlstate", None) or getattr(origin, "pgcode", None)
    return state == UNDEFINED_TABLE or origin.args[:1] == (NO_SUCH_TABLE,) or "no such table: " in text


def refuse_no_text(error: BaseException) -> None:
    """Raise where ``error``, a driver's own or SQLAlchemy's, is about a text that no database keeps.

    Raises:
        ConfigurationError: so it is; what was asked for cannot be there.
    """
    text = str(getattr(error, "orig", None) or error)
    if any(words in text for words in NO_TEXT):
        raise ConfigurationError(
            "a text that was given holds a NUL character or a lone surrogate, which no database keeps; leave it out"
        ) from error
