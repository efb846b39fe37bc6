"""Reads exceptions that others wrote, and what they carry: reading them may raise, and must not."""

from __future__ import annotations

import traceback
from typing import Any

UNREADABLE = "<the text of the error could not be read>"


def text_of(error: BaseException) -> str:
    """Return the text of ``error``, or ``UNREADABLE``."""
    try:
        return str(error)
    except Exception:  # whatever it is, the failure must be told of all the same
        return UNREADABLE


def traceback_of(error: BaseException, *, with_causes: bool) -> list[str]:
    """Return the lines of the stack of ``error`` and its text, with those of its causes if they can be read."""
    try:
        return traceback.format_exception(error, chain=with_causes)
    except Exception:
        return [*traceback.format_tb(error.__traceback__), f"{type(error).__qualname__}: {text_of(error)}\n"]


def read(carrier: object, name: str) -> Any:
    """Return an attribute; ``None`` if it is not there, or is a property that raises."""
    try:
        return getattr(carrier, name, None)
    except Exception:
        return None
