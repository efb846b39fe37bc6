"""What sets one kind of SQL database apart from the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import Executable, Table

from pillarbox.outbox import OutboxPartitions
from pillarbox.relational.outbox import KeyLocks
from pillarbox.relational.silence import Sever
from pillarbox.relational.tables import outbox
from pillarbox.relay import RelayKind, SequenceReader
from pillarbox.relay.log_reader import LogAccess
from pillarbox.relay.low_watermark import OutboxHorizon


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseTraits:
    """What sets one kind of database apart.

    Attributes:
        name: how errors and people call it.
        key_locks: how it locks message keys; ``None`` where there is one writer at a time anyway.
        migration_lock: what excludes a second migration; ``None`` where a transaction does.
        lock_wait: bounds how long a statement of the transaction waits for a lock; ``None`` where connecting says it.
        begins_bounded: asynchronous connections bring ``lock_wait`` along as they begin a transaction.
        idle_limit: like ``lock_wait``, and ends the transaction if the database hears nothing of it for so long: a
            connection that was forgotten on the way would keep its locks. Only where nobody else's code runs.
        end_resting: ends connections whose clients have stood still for more than ``rested_s`` seconds where the
            database cannot bound it, and returns a row for each; ``None`` where it always can.
        single_writer: transactions of this process queue up for the database in order, instead of polling for it.
        writes_in_with: a WITH clause may write.
        conflicts: tells whether a driver's error means that the transaction should be tried again.
        sequence: how a sequence relay reads it; ``None`` where that would lose late commits.
        log: how a log tailing relay reads it; ``None`` where there is no log that it could read.
        horizon: what may still appear in the outbox; ``None`` where a read passes over nothing that was deleted.
        partitions: of the outbox; ``None`` where there are none.
        removed_by_row: where records that a sequence relay has passed are deleted one by one; the rest is partitions.
        refuses: why a kind of relay cannot read it.
        sever: ends a connection that gives no answer; ``None`` where no network lies between.
    """

    name: str
    conflicts: Callable[[BaseException], bool]
    key_locks: KeyLocks | None = None
    migration_lock: Executable | None = None
    lock_wait: Executable | None = None
    begins_bounded: bool = False
    idle_limit: Callable[[timedelta], Executable] | None = None
    end_resting: Executable | None = None
    single_writer: bool = False
    writes_in_with: bool = False
    sequence: SequenceReader | None = None
    log: LogAccess | None = None
    horizon: OutboxHorizon | None = None
    partitions: OutboxPartitions | None = None
    removed_by_row: Table = outbox
    refuses: Mapping[RelayKind, str] = field(default_factory=dict[RelayKind, str])
    sever: Sever | None = None
