"""What is leased, on which terms, and what an owner holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTerms:
    """The terms on which the slots of one scope are leased.

    Attributes:
        scope: what is divided, such as ``relay`` or one consumer's queue.
        slots: how many slots there are; the same for every owner of the scope.
        ttl: how long a lease lasts without renewal, by the database's clock.
        whole: this owner works with every slot or with none; while others hold some it waits and claims no share.
    """

    scope: str
    slots: int = 64
    ttl: timedelta = timedelta(seconds=15)
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenancy:
    """What one owner holds after a heartbeat.

    Attributes:
        tokens: the fencing token of each slot held.
        share: how many slots each live owner should hold; who holds more gives some back once they are drained.
    """

    tokens: Mapping[int, int]
    share: int
