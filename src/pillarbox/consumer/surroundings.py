"""What every part of a consumer at work has around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from pillarbox.clock import Clock
from pillarbox.consumer.dependency import NOTHING, Needs
from pillarbox.consumer.solitude import Solitude
from pillarbox.observe import Observer
from pillarbox.transaction import TransactionSource

RUN_SIZE = 100
LANES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the parts of a consumer share in one process.

    Attributes:
        source: where transactions begin.
        worker: this process, new for each start.
        new_token: makes a token that no other process makes.
        on_published: called after a commit that put messages into the outbox.
        lease: how long what a process has claimed stays its own after it ends without a word.
        lanes: how many lanes a consumer has that does not say.
        run_size: how many messages one transaction handles at most.
        needs: what the consumer's handler calls.
        solitude: shared by all consumers of the process, so that a suspect can be alone in it.
    """

    source: TransactionSource
    clock: Clock
    observer: Observer
    worker: str
    new_token: Callable[[], str]
    on_published: Callable[[], None]
    lease: timedelta = timedelta(seconds=15)
    lanes: int = LANES
    run_size: int = RUN_SIZE
    needs: Needs = NOTHING
    solitude: Solitude = field(default_factory=Solitude)
