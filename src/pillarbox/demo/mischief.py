"""What ``--chaos`` does to the demo: decided before it starts, by orders and a seed alone.

Guarantee: the same orders and the same seed suffer the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final


class Fault(StrEnum):
    """What a handler does to a message.

    ``poison`` fails for ever; ``flaky`` fails the first attempts, before its first statement or after its last one;
    ``crash`` ends the whole process, once, between the handler's statements and the commit.
    """

    POISON = "poison"
    FLAKY_EARLY = "flaky-early"
    FLAKY_LATE = "flaky-late"
    CRASH = "crash"


PLACES: Final[Mapping[Fault, Sequence[str]]] = {
    Fault.POISON: ("track-order", "reserve-stock", "charge-payment", "ship-order", "notify-customer"),
    Fault.FLAKY_EARLY: ("charge-payment", "reserve-stock", "ship-order", "track-order", "notify-customer"),
    Fault.FLAKY_LATE: ("charge-payment", "reserve-stock", "ship-order", "track-order", "compensate-order"),
    Fault.CRASH: ("charge-payment", "ship-order", "notify-customer"),
}
SAGA_PLACES: Final[Mapping[Fault, Sequence[str]]] = {
    Fault.FLAKY_EARLY: ("charge-payment", "keep-stock", "send-parcel", "notify-customer"),
    Fault.FLAKY_LATE: ("charge-payment", "keep-stock", "send-parcel", "refund-payment"),
    Fault.CRASH: ("charge-payment", "keep-stock", "send-parcel"),
}
"""Where the services are asked by a saga; nothing is poisoned there, since every saga is to come to an end."""
ROLLED_BACK_SHARE, DUPLICATED_SHARE, FLAKY_SHARE, POISON_SHARE = 0.02, 0.05, 0.05, 0.01
CRASHES, KILLS, LEAST = 3, 2, 3
MAX_FAILURES = 3
CRASH_EXIT_CODE = 70


class FlakyError(ConnectionError):
    """A neighbour of the service is away for a moment."""


class PoisonError(ValueError):
    """The service cannot make sense of the message, however often it tries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mischief:
    """The plan of a run; empty without ``--chaos``.

    Attributes:
        seed: decides which messages are duplicated and when the worker is killed.
        rolled_back: orders whose transaction is rolled back after everything was written.
        faults: ``consumer/order_id`` → what its handler does.
        kills: after which shares of the orders the worker process is killed.
    """

    seed: int = 0
    rolled_back: frozenset[str] = frozenset()
    faults: Mapping[str, Fault] = field(default_factory=dict[str, Fault])
    kills: tuple[float, ...] = ()
    duplicates: bool = False

    def fault(self, consumer: str, order_id: str) -> Fault | None:
        """Return what the handler ``consumer`` does to the messages of an order."""
        return self.faults.get(f"{consumer}/{order_id}")

    def failures(self, consumer: str, order_id: str) -> int:
        """Return how many attempts of a flaky handler fail, fewer than it has."""
        return 1 + int(_dice(self.seed, "failures", consumer, order_id) * MAX_FAILURES)

    def is_duplicated(self, message_type: str, order_id: str) -> bool:
        """Tell whether a message reaches the broker twice."""
        return self.duplicates and _dice(self.seed, "duplicate", message_type, order_id) < DUPLICATED_SHARE

    @property
    def poisoned(self) -> frozenset[str]:
        """The ``consumer/order_id`` that end in the dead letters if they get that far."""
        return frozenset(place for place, fault in self.faults.items() if fault is Fault.POISON)

    def to_json(self) -> str:
        """Return the plan as the worker process reads it."""
        return json.dumps({**asdict(self), "rolled_back": sorted(self.rolled_back)})

    @classmethod
    def from_json(cls, text: str) -> Mischief:
        """Read a plan."""
        plan = json.loads(text)
        return cls(
            seed=plan["seed"],
            rolled_back=frozenset(plan["rolled_back"]),
            faults={place: Fault(fault) for place, fault in plan["faults"].items()},
            kills=tuple(plan["kills"]),
            duplicates=plan["duplicates"],
        )


NONE: Final = Mischief()


def plan_mischief(order_ids: Iterable[str], *, seed: int, places: Mapping[Fault, Sequence[str]] = PLACES) -> Mischief:
    """Choose the victims among ``order_ids``; small numbers of orders suffer at least once from each fault.

    Args:
        order_ids: of all orders.
        seed: decides who suffers.
        places: by fault, the consumers that it strikes in turn.
    """
    orders = sorted(order_ids)
    faults: dict[str, Fault] = {}
    wanted = {
        Fault.CRASH: min(CRASHES, len(orders)),
        Fault.POISON: _share(len(orders), POISON_SHARE),
        Fault.FLAKY_LATE: _share(len(orders), FLAKY_SHARE / 2),
        Fault.FLAKY_EARLY: _share(len(orders), FLAKY_SHARE / 2),
    }
    rolled_back = frozenset(_drawn(orders, _share(len(orders), ROLLED_BACK_SHARE), seed, "rolled back"))
    left = [order for order in orders if order not in rolled_back]
    for fault, count in wanted.items():
        struck = places.get(fault, ())
        for number, order in enumerate(_drawn(left, count, seed, fault) if struck else ()):
            faults.setdefault(f"{struck[number % len(struck)]}/{order}", fault)
    kills = tuple(sorted(0.2 + 0.7 * _dice(seed, "kill", str(number)) for number in range(KILLS)))
    return Mischief(seed=seed, rolled_back=rolled_back, faults=faults, kills=kills, duplicates=True)


class OnceOnly:
    """Remembers across crashes what has been done, outside of every transaction: a file for each thing."""

    def __init__(self, folder: Path) -> None:
        """Keep the marks in ``folder``."""
        self._folder = folder

    def first_time(self, what: str) -> bool:
        """Tell whether ``what`` is asked for the first time; the answer is on disk before it is given."""
        name = hashlib.sha256(what.encode()).hexdigest()[:24]
        try:
            mark = os.open(self._folder / f"once-{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return False
        os.fsync(mark)
        os.close(mark)
        return True

    def count(self) -> int:
        """Return how many things have been done."""
        return sum(1 for _ in self._folder.glob("once-*"))


def _share(count: int, share: float) -> int:
    return min(count, max(LEAST, round(count * share)))


def _drawn(orders: Sequence[str], count: int, seed: int, what: str) -> list[str]:
    return sorted(orders, key=lambda order: _dice(seed, what, order))[:count]


def _dice(seed: int, *what: str) -> float:
    """Return a number from [0, 1) that depends on the arguments only."""
    text = "\0".join([str(seed), *what])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
