"""What kind of failure an exception is: data, matched by class, nearest class first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, TypeAlias

from pillarbox.errors import ConflictError, PermanentError, TransientError

Kind: TypeAlias = Literal["transient", "permanent", "throttled", "conflict", "unknown"]
"""``conflict`` is the database asking for the transaction again; it is no attempt of the handler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failure, classified.

    Attributes:
        kind: whether waiting can help.
        retry_after: how long the other side asked to be left alone; only for ``throttled``.
    """

    kind: Kind
    retry_after: timedelta | None = None


DEFAULT_RULES: Mapping[type[BaseException], Kind] = {
    PermanentError: "permanent",
    TransientError: "transient",
    ConflictError: "conflict",
    TimeoutError: "transient",
    ConnectionError: "transient",
    OSError: "transient",
    Exception: "unknown",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """Rules by exception class; the rule of the nearest class in the exception's ancestry counts."""

    rules: Mapping[type[BaseException], Kind] = field(default_factory=lambda: dict(DEFAULT_RULES))

    def with_rules(self, kind: Kind, *types: type[BaseException]) -> Classification:
        """Return the same rules with ``types`` counted as ``kind``."""
        return Classification(rules={**self.rules, **dict.fromkeys(types, kind)})

    def classify(self, error: BaseException) -> Failure:
        """Tell what kind of failure ``error`` is; an attribute ``retry_after`` (timedelta) means throttled."""
        retry_after = getattr(error, "retry_after", None)
        if isinstance(retry_after, timedelta) and retry_after >= timedelta(0):
            return Failure(kind="throttled", retry_after=retry_after)
        for ancestor in type(error).__mro__:
            if (kind := self.rules.get(ancestor)) is not None:
                return Failure(kind=kind)
        return Failure(kind="unknown")
