"""Runs the loops of a box side by side and ends them in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta

from pillarbox.channel import Broker
from pillarbox.channel.wakeup import Wakeup
from pillarbox.clock import Clock
from pillarbox.consumer.stray import failure_of
from pillarbox.errors import BrokerUnavailableError
from pillarbox.observe import Observer, WorkerFaltered
from pillarbox.rounds import Loop
from pillarbox.saga.orchestrator import SagaOrchestrator

PAUSE_BEFORE_RESTART = timedelta(seconds=1)
LOOK_AGAIN_EVERY = timedelta(seconds=1)


async def connect(broker: Broker, observer: Observer) -> None:
    """Open ``broker``, or tell that it is away: that keeps nobody from publishing, and the relay meets it again.

    Raises:
        ConfigurationError: it cannot be worked with.
    """
    try:
        await broker.open()
    except BrokerUnavailableError as error:
        observer.notice(WorkerFaltered.by(error, worker="broker", retry_after=PAUSE_BEFORE_RESTART))


class OnceDeclared(Loop):
    """A loop that waits until the messages of consumers come: a broker may be away when its process starts."""

    def __init__(self, loop: Loop, *, is_declared: Callable[[], bool], clock: Clock) -> None:
        """Run ``loop`` once ``is_declared``."""
        self.name = _name_of(loop)
        self._loop = loop
        self._is_declared = is_declared
        self._clock = clock
        self._wakeup = Wakeup()
        self._stopping = False

    @property
    def in_hand(self) -> int:
        """How many messages the loop has received and not yet settled."""
        return int(getattr(self._loop, "in_hand", 0))

    def stop(self) -> None:
        """End the loop, or the wait for it."""
        self._stopping = True
        self._wakeup.ring()
        self._loop.stop()

    async def run(self) -> None:
        """Run the loop until ``stop``."""
        while not (self._stopping or self._is_declared()):
            await self._wakeup.wait(self._clock, LOOK_AGAIN_EVERY)
        await self._loop.run()


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
        return sum(worker.in_hand for worker in self._workers if isinstance(worker, OnceDeclared | SagaOrchestrator))

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
                    WorkerFaltered.by(error, worker=_name_of(worker), retry_after=PAUSE_BEFORE_RESTART)
                )
                await self._clock.sleep(PAUSE_BEFORE_RESTART)
            if self._stopping:
                return


def _name_of(worker: Loop) -> str:
    return worker.name if isinstance(worker, OnceDeclared) else type(worker).__name__


def _take_back_cancelling() -> None:
    """Take back what something in a loop has asked of the loop's own task: only who cancels them all ends one."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
