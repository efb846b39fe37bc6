"""What every part of a consumer at work has around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pillarbox.clock import Clock
from pillarbox.observe import Observer
from pillarbox.transaction import TransactionSource

RUN_SIZE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the parts of a consumer share in one process.

    Attributes:
        source: where transactions begin.
        worker: this process, new for each start.
        new_token: makes a token that no other process makes.
        on_published: called after a commit that put messages into the outbox.
        run_size: how many messages one transaction handles at most.
    """

    source: TransactionSource
    clock: Clock
    observer: Observer
    worker: str
    new_token: Callable[[], str]
    on_published: Callable[[], None]
    run_size: int = RUN_SIZE
