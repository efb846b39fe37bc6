"""Which order a consumer keeps: the values that handlers are declared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, TypeAlias

from pillarbox.errors import ConfigurationError
from pillarbox.errors.values import FROM_ONE, NO_NEGATIVE_TIME, SOME_TIME, check_values
from pillarbox.ordering.kept import Kept

GapAction: TypeAlias = Literal["hold", "skip", "fetch"]

WhenMissing: TypeAlias = Literal["hold", "run", "dead"]


@dataclass(frozen=True, slots=True)
class Unordered:
    """No order: a message that waits for its retry lets every other one pass."""


@dataclass(frozen=True, slots=True)
class ByKey:
    """The order of each key: while a message waits for its retry, the later ones of its key wait behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GapPolicy:
    """What follows when a number is missing and does not come.

    Attributes:
        wait: how long nothing of a key moves on before the gap is told of and ``then`` is done.
        then: ``hold`` waits on until an operator decides; ``skip`` goes on without what is missing, with an alarm;
            ``fetch`` asks for it where its producer keeps what it has published, and else waits on.
        max_buffered: how many messages of one key may wait for an earlier one; when there are so many, ``then`` is done
            at once, and what comes early besides is given back to its channel.
        fetch_from: the URL of the producer's store, or who else keeps its messages; ``None`` for the box's own store.
    """

    wait: timedelta = timedelta(seconds=30)
    then: GapAction = "hold"
    max_buffered: int = 1000
    fetch_from: str | Kept | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigurationError: a value is out of range, or goes with another action.
        """
        check_values(self, wait=NO_NEGATIVE_TIME, max_buffered=FROM_ONE)
        if self.fetch_from is not None and self.then != "fetch":
            raise ConfigurationError(f"GapPolicy(then={self.then!r}) fetches nothing; leave fetch_from= out")


@dataclass(frozen=True, slots=True, kw_only=True)
class BySequence:
    """The order of the numbers that the producer gave: n + 1 is handled after n, in whatever order they come.

    Its messages are declared with ``numbered=True``. EIP: *Resequencer*, with its buffer in the database.

    Attributes:
        gap: what follows when a number does not come.
        start: where a key begins that is new to the consumer: ``next`` waits for ``gap.wait`` and then begins with the
            lowest number it has seen; to ``first`` everything before that is a gap.
    """

    gap: GapPolicy = field(default_factory=GapPolicy)
    start: Literal["next", "first"] = "next"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigurationError: there is no such start, or the policy is none.
        """
        check_values(self)


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
        check_values(self, wait=SOME_TIME, max_causes=FROM_ONE)


@dataclass(frozen=True, slots=True)
class SingleConsumer(ByKey):
    """The order in which messages come: over all processes one at a time is handled, whatever its key.

    While one waits for its retry, all later ones wait behind it. One process works, under a lease; the others take over
    when it ends.
    """


Ordering: TypeAlias = Unordered | ByKey | BySequence
