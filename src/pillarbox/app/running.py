"""Runs the loops of a box side by side and ends them in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from pillarbox.channel import Broker
from pillarbox.clock import Clock
from pillarbox.consumer.intermittent import Intermittent
from pillarbox.consumer.stray import failure_of
from pillarbox.consumer.worker import ConsumerWorker
from pillarbox.errors import BrokerUnavailableError
from pillarbox.observe import Observer, WorkerFaltered
from pillarbox.rounds import Loop
from pillarbox.saga.orchestrator import SagaOrchestrator

HANDLING = (ConsumerWorker, Intermittent, SagaOrchestrator)
PAUSE_BEFORE_RESTART = timedelta(seconds=1)


async def connect(broker: Broker, observer: Observer) -> None:
    """Open ``broker``, or tell that it is away: that keeps nobody from publishing, and the relay meets it again.

    Raises:
        ConfigurationError: it cannot be worked with.
    """
    try:
        await broker.open()
    except BrokerUnavailableError as error:
        observer.notice(WorkerFaltered.by(error, worker="broker", retry_after=PAUSE_BEFORE_RESTART))


class Running:
    """The workers of a box at work."""

    def __init__(self, workers: Sequence[Loop], *, clock: Clock, observer: Observer) -> None:
        """Run ``workers``."""
        self._workers = workers
        self._clock = clock
        self._observer = observer
        self._stopping = False

    @property
    def in_hand(self) -> int:
        """How many messages the workers have received and not yet settled, and sagas' calls not yet written down."""
        return sum(worker.in_hand for worker in self._workers if isinstance(worker, HANDLING))

    def stop(self) -> None:
        """Tell every worker to finish what it has in hand."""
        self._stopping = True
        for worker in self._workers:
            worker.stop()

    async def run(self) -> None:
        """Run until ``stop``; a loop that ends in an error is reported and started again."""
        owner = asyncio.current_task()
        async with asyncio.TaskGroup() as group:
            for worker in self._workers:
                group.create_task(self._supervise(worker, owner))

    async def _supervise(self, worker: Loop, owner: asyncio.Task[None] | None) -> None:
        while True:
            try:
                await worker.run()
            except (Exception, asyncio.CancelledError) as caught:
                if not (owner is not None and owner.cancelling()):
                    _take_back_cancelling()
                error = failure_of(caught, of="a worker")
                self._observer.notice(
                    WorkerFaltered.by(error, worker=type(worker).__name__, retry_after=PAUSE_BEFORE_RESTART)
                )
                await self._clock.sleep(PAUSE_BEFORE_RESTART)
            if self._stopping:
                return


def _take_back_cancelling() -> None:
    """Take back what something in a loop has asked of the loop's own task: only who cancels them all ends one."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
