"""What transactions that were rolled back have told of the functions of sagas: it holds until one is durable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypeAlias

from pillarbox.saga.store import SagaKey

CONFLICTS_IN_A_ROW = 50
"""So often the database may ask for a saga's transaction again; the next time is a failed attempt."""

Verdict: TypeAlias = tuple[SagaKey, str]
"""Which call of a saga's function failed in a transaction that was rolled back."""


class Spoiled(Exception):  # noqa: N818  # not an error of anybody's: the transaction must be done again
    """A function failed after it had written, or the database asks for it again: the transaction must be rolled back.

    Attributes:
        verdict: which call of whose function it was.
        error: how it failed.
        is_conflict: it is to be called again, as if it had not been.
    """

    def __init__(self, key: SagaKey, place: str, error: Exception, *, is_conflict: bool = False) -> None:
        """Name the function."""
        super().__init__(f"{key.saga} {key.saga_id} spoiled its transaction in {place}")
        self.verdict: Verdict = key, place
        self.error = error
        self.is_conflict = is_conflict


class Verdicts:
    """The calls that failed, and how: they are not made once more."""

    def __init__(self) -> None:
        """Begin with none."""
        self._errors: dict[Verdict, Exception] = {}
        self._conflicts = Counter[SagaKey]()

    def error_of(self, verdict: Verdict) -> Exception | None:
        """Return how a call failed; ``None`` if it is to be made."""
        return self._errors.get(verdict)

    def note(self, verdict: Verdict, error: Exception) -> None:
        """Remember that a call failed."""
        self._errors[verdict] = error

    def note_spoiled(self, spoiled: Spoiled) -> None:
        """Remember who spoiled a transaction; what the database asks for again is called again, within bounds."""
        key, _ = spoiled.verdict
        if spoiled.is_conflict:
            self._conflicts[key] += 1
            if self._conflicts[key] <= CONFLICTS_IN_A_ROW:
                return
            del self._conflicts[key]
        self._errors[spoiled.verdict] = spoiled.error

    def forget(self, key: SagaKey, heeded: Iterable[Verdict]) -> None:
        """Drop what is durable by now: a transaction of the saga ``key``, in which ``heeded`` were heeded."""
        self._conflicts.pop(key, None)
        for verdict in heeded:
            self._errors.pop(verdict, None)
