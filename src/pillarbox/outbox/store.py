"""The port through which records enter the outbox."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from pillarbox.outbox.record import OutboxRecord
from pillarbox.transaction import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxState:
    """What waits in the outbox.

    Attributes:
        pending: records to be published now, those included that were held and may go on.
        oldest_for: how long the oldest of them has waited, or of those scheduled that are due by now; ``None`` when
            there is none.
        scheduled: records that are not due yet, or were not taken into the outbox since.
        parked: records that their broker refused, with an operator's decision outstanding.
        held: records behind a parked one of the same key.
    """

    pending: int
    oldest_for: timedelta | None
    scheduled: int
    parked: int
    held: int


class OutboxStore(Protocol):
    """The outbox as producers see it.

    Every implementation must pass ``pillarbox.testing.contracts.OutboxStoreContract``.
    """

    @abstractmethod
    def append(self, records: Sequence[OutboxRecord]) -> Program[None]:
        """Write ``records`` in the transaction that runs this program, in the given order.

        Positions are taken under the locks of the records' keys, which the transaction then holds to its end: of two
        transactions that write the same key, the one with the lower position commits first. Locks are taken in sorted
        order within one call. Records with ``due_in`` wait outside and take their position when they are due.
        """

    @abstractmethod
    def state(self) -> Program[OutboxState]:
        """Count what waits; any process can ask, also when no relay runs."""
