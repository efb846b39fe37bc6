"""Which order a consumer keeps: the values that handlers are declared with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeAlias

from pillarbox.errors import ConfigurationError

WhenMissing: TypeAlias = Literal["hold", "run", "dead"]


@dataclass(frozen=True, slots=True)
class Unordered:
    """No order: a message that waits for its retry lets every other one pass."""


@dataclass(frozen=True, slots=True)
class ByKey:
    """The order of each key: while a message waits for its retry, the later ones of its key wait behind it."""


@dataclass(frozen=True, slots=True)
class Causal(ByKey):
    """The order of causes, and that of each key: a message waits until its consumer has processed what caused it.

    Only causes that the consumer sees count: those of types that it handles, sent to channels that it receives from.

    Attributes:
        wait: how long a message waits for a cause before ``when_missing`` decides.
        when_missing: what becomes of a message whose cause does not come in time, is a dead letter, or waits itself
            for the message: ``hold`` lets it wait on and tells of it, ``run`` handles it all the same and tells of it,
            ``dead`` makes it a dead letter.
        max_causes: a message that names more is not read; it is a dead letter.

    Raises:
        ConfigurationError: ``wait`` is not positive, or ``max_causes`` below one.
    """

    wait: timedelta = timedelta(minutes=5)
    when_missing: WhenMissing = "hold"
    max_causes: int = 32

    def __post_init__(self) -> None:
        """Refuse what could not be kept."""
        if self.wait <= timedelta(0):
            raise ConfigurationError(f"Causal(wait={self.wait}): give a cause some time to come, as in seconds=30")
        if self.max_causes < 1:
            raise ConfigurationError(f"Causal(max_causes={self.max_causes}): a message has a cause, or needs no Causal")


@dataclass(frozen=True, slots=True)
class SingleConsumer(ByKey):
    """The order in which messages come: over all processes one at a time is handled, whatever its key.

    While one waits for its retry, all later ones wait behind it. One process works, under a lease; the others take over
    when it ends.
    """


Ordering: TypeAlias = Unordered | ByKey
