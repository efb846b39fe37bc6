"""A consumer that stops when a message dies: nothing is handled until somebody has decided about it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from pillarbox.consumer.intake import Intake
from pillarbox.consumer.item import Item
from pillarbox.errors import ConflictError, TransientError
from pillarbox.holding import HoldingStore, is_stop_key
from pillarbox.transaction import Program, TransactionSource


class StoppedByDeadLetter(Exception):  # noqa: N818  # not an error of anybody's: the rest has to wait
    """A dead letter has stopped the consumer: what is not handled yet goes back where it came from.

    Attributes:
        undone: what was neither handled nor buried.
    """

    def __init__(self, consumer: str, undone: Sequence[Item] = ()) -> None:
        """Name the consumer."""
        super().__init__(f"{consumer} is stopped by a dead letter; replay it, or discard it")
        self.consumer = consumer
        self.undone = tuple(undone)


class StopSign:
    """Tells a process whether its consumer is stopped."""

    def __init__(self, consumer: str, *, holding: HoldingStore, source: TransactionSource) -> None:
        """Look into ``holding``."""
        self._name = consumer
        self._holding = holding
        self._source = source
        self._is_off = False

    async def is_off(self) -> bool:
        """Tell whether the consumer may work; while the database is away, what was true before is."""
        with suppress(TransientError, ConflictError):
            self._is_off = not await self._source.run(self._holding.stopped(self._name))
        return self._is_off


class StoppingIntake(Intake):
    """An intake that admits nothing while its consumer is stopped, but for what stopped it."""

    def __init__(self, inner: Intake, consumer: str, *, holding: HoldingStore, keeps: bool) -> None:
        """Do what ``inner`` does, if the consumer is not stopped; ``keeps`` when what is not admitted stays in it."""
        self._inner = inner
        self._name = consumer
        self._holding = holding
        self._keeps = keeps

    def admit(self, items: Sequence[Item]) -> Program[Sequence[Item]]:
        """Look first whether the consumer is stopped.

        Raises:
            StoppedByDeadLetter: it is, and the messages go back.
        """
        if not (yield from self._holding.stopped(self._name)):
            return (yield from self._inner.admit(items))
        if not self._keeps:
            raise StoppedByDeadLetter(self._name)
        blockers = [item for item in items if is_stop_key(item.hold_key)]
        return (yield from self._inner.admit(blockers)) if blockers else []

    def retry_later(self, items: Sequence[Item]) -> Program[None]:
        """Do what the inner intake does."""
        return self._inner.retry_later(items)

    def bury(self, items: Sequence[Item]) -> Program[None]:
        """Do what the inner intake does."""
        return self._inner.bury(items)

    def put_behind(self, items: Sequence[Item]) -> Program[None]:
        """Do what the inner intake does."""
        return self._inner.put_behind(items)

    def accept(self, items: Sequence[Item], done: Sequence[Item]) -> Program[None]:
        """Do what the inner intake does."""
        return self._inner.accept(items, done)
