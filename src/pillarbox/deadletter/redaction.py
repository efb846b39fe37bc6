"""Keeps out of the database what must not be read in the text of a failure."""

from __future__ import annotations

from collections.abc import Callable

from pillarbox.holding import storable

Redact = Callable[[str], str]
WITHHELD = "(withheld: the redact hook failed)"


def nothing_redacted(text: str) -> str:
    """Return ``text`` as it is."""
    return text


def redacting(hook: Redact) -> Redact:
    """Return ``hook`` made safe: where it fails the text is withheld, and the message is kept all the same."""

    def redacted(text: str) -> str:
        try:
            return storable(hook(text))
        except Exception:  # whatever it is, the dead letter must not be lost over it, nor the text be told
            return WITHHELD

    return redacted
