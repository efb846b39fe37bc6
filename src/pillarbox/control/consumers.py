"""Consumers as an operator sees them: what the program declares beside what the store remembers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pillarbox.consumer import Consumer
from pillarbox.consumer.circuits import CircuitStore
from pillarbox.control.inspection import Inspection, KnownConsumer
from pillarbox.transaction import TransactionSource


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerView:
    """One consumer.

    Attributes:
        identity: ``<service>/<name>``; empty for messages on queues that no known consumer receives from.
        mode: ``transaction`` or ``outside``; ``None`` where the program does not declare it.
        types: the message types that it handles, as far as the program declares them.
        known: the store remembers it: it has been started at least once.
        queued: messages that wait for it where the database is the broker.
        held: messages in its holding.
        paused_by: what it needs and is down, as ``<service>/<name>``; ``None`` while nothing pauses it.
        stopped: a dead letter has stopped it, in every process.
        processes: how many have it, whether they receive or not; one that ended without a word counts for a lease.
    """

    identity: str
    channels: tuple[str, ...]
    mode: str | None
    types: tuple[str, ...]
    known: bool
    queued: int
    held: int
    paused_by: str | None = None
    stopped: bool = False
    processes: int = 0


class ConsumersControl:
    """Looks at consumers."""

    def __init__(self, *, inspection: Inspection, circuits: CircuitStore, source: TransactionSource) -> None:
        """Ask through these ports."""
        self._inspection = inspection
        self._circuits = circuits
        self._source = source

    async def list(self, declared: Sequence[Consumer] = ()) -> tuple[ConsumerView, ...]:
        """Return the consumers of the store and those ``declared``, by name."""
        known = {one.identity: one for one in await self._source.run(self._inspection.consumers())}
        by_name = {one.identity: one for one in declared}
        down = {one.dependency: one for one in await self._source.run(self._circuits.known())}
        paused_by = {
            name: dependency
            for dependency, one in down.items()
            if not one.circuit.is_closed
            for name in (*one.needed_by, *(name for name, consumer in by_name.items() if consumer.needs == dependency))
        }
        return tuple(
            _view(name, by_name.get(name), known.get(name), paused_by.get(name)) for name in sorted({*known, *by_name})
        )


def _view(identity: str, declared: Consumer | None, known: KnownConsumer | None, paused_by: str | None) -> ConsumerView:
    channels = declared.channels if declared is not None else known.channels if known is not None else ()
    return ConsumerView(
        identity=identity,
        channels=channels,
        mode=None if declared is None else declared.mode,
        types=() if declared is None else tuple(sorted(declared.message_types)),
        known=known is not None,
        queued=0 if known is None else known.queued,
        held=0 if known is None else known.held,
        paused_by=paused_by,
        stopped=known is not None and known.stopped,
        processes=0 if known is None else known.processes,
    )
