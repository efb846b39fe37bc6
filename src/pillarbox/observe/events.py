"""What happens, as typed events; their fields are the contract for logs, metrics and alerts.

Bodies and keys of messages never appear here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from pillarbox.errors.reading import text_of
from pillarbox.observe.flows import FlowDoubtful, FlowStuck
from pillarbox.observe.held import CauseAwaited, CauseMissing, HeldKeyFull, MessageHeld


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesPublished:
    """A relay handed messages to the broker and settled their records."""

    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementRefused:
    """Records that were published are not known to be settled: the lease was lost, or the database did not answer.

    They will be published again, unless it was only the database's answer that was lost. What a killed process had
    published it cannot tell: there the consumers count, by ``DuplicateSuppressed``.
    """

    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordParked:
    """The broker will not take a record; its key is held until an operator decides."""

    message_id: str
    destination: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsRepublished:
    """Somebody had records that were published before put back into the outbox; they will be published again."""

    count: int
    since: str
    until: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochBegun:
    """Somebody had the numbers of all keys of numbered destinations begin at 1 again, in a new epoch."""

    keys: int
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorRebased:
    """A sequence relay found its cursor in another database cluster than the one where it was written.

    What was published was taken out of the outbox; the cursor starts over before everything else.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class LogGapFound:
    """A log tailing relay found that the database's log may lack events: its slot was dropped, invalidated, replaced.

    ``healed``: the events are in the outbox's table and are published from there. Without a table those that were
    committed and not published before the gap are lost.
    """

    reason: str
    healed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationNotReady:
    """Nobody listens to a topic yet; its records wait in the outbox."""

    destination: str
    retry_after: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAway:
    """The broker cannot be reached; publishing pauses, no attempts are burnt."""

    reason: str
    retry_after: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageHandled:
    """A consumer handled a message and its effects are durable."""

    consumer: str
    message_id: str
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateSuppressed:
    """A consumer was given a message again that it had processed before."""

    consumer: str
    message_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDiscarded:
    """A consumer has no handler for a message of its topic, in no process that lives or did so minutes ago."""

    consumer: str
    message_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRouted:
    """A route forwarded a message; its copies are in the outbox. ``destinations`` are addresses."""

    consumer: str
    message_id: str
    destinations: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageFiltered:
    """A filter discarded a message, as its condition says."""

    consumer: str
    message_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed:
    """A handler failed and its immediate attempts are over; ``retry_after`` is ``None`` when nothing follows.

    ``attempt`` counts the immediate ones too; a call to a dependency that is down is not counted.
    """

    consumer: str
    message_id: str
    attempt: int
    error_type: str
    retry_after: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDead:
    """A message is in the dead letters.

    ``group``: the fingerprint of its cause; ``holds_key``: later messages of its key wait for a decision about it.
    ``quiet_for``: since the letter before of its group, ``None`` for the first; ``regressed``: that was resolved.
    """

    consumer: str
    message_id: str
    reason: str
    attempts: int
    error_type: str = ""
    group: str = ""
    holds_key: bool = False
    quiet_for: timedelta | None = None
    regressed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerOpened:
    """A dependency is taken to be down: consumers that need it pause, and no attempts are counted.

    ``openings``: how often it has opened since it was last closed; more than one means that a probe has failed.
    """

    dependency: str
    error_type: str
    openings: int
    retry_after: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerClosed:
    """A dependency answers again, and consumers that need it go on."""

    dependency: str
    away_for: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertFailed:
    """An alert could not be delivered to its target; it is tried again unless ``is_given_up``."""

    rule: str
    subject: str
    target: str
    error_type: str
    is_given_up: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GapFound:
    """Numbers ``first`` to ``last`` of a key have not come, and ``buffered`` messages wait for them.

    It is told of once, when nothing of the key has moved on for as long as the policy waits, or as much waits as may.
    """

    consumer: str
    channel: str
    first: int
    last: int
    buffered: int
    stalled_for: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class GapSkipped:
    """A consumer goes on without numbers ``first`` to ``last`` of a key; what comes of them after all is late."""

    consumer: str
    channel: str
    first: int
    last: int
    by: str
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GapFetched:
    """Numbers ``first`` to ``last`` of a key were asked for where they are kept; ``found`` of them were there."""

    consumer: str
    channel: str
    first: int
    last: int
    found: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LineBegun:
    """A consumer begins with number ``first`` of a key that is new to it: no earlier one came while it waited."""

    consumer: str
    channel: str
    first: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaEnded:
    """A saga has ended: ``completed`` or ``compensated``."""

    saga: str
    saga_id: str
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaStepFailed:
    """An attempt at a step, or at undoing it, has failed; nothing more is tried when it ``is_final``."""

    saga: str
    saga_id: str
    step: str
    direction: str
    attempt: int
    error: str
    is_final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaNeedsAttention:
    """A saga can neither go on nor be undone; it waits for an operator's verb."""

    saga: str
    saga_id: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaUnreadable:
    """A saga cannot be read by its definition, or what comes of it not be written down; it waits as it is."""

    saga: str
    saga_id: str
    version: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxPurged:
    """What inboxes need not remember any longer was removed: ids and business keys, and what else is as old.

    That is what dead workers left, the operations that were applied, and the answers of calls to the outside.
    """

    ids: int
    leftovers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerStopped:
    """A dead letter has stopped a consumer in every process, until somebody replays or discards it."""

    consumer: str
    message_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRolledBack:
    """A run of messages was rolled back and is done again in another division; no attempt is counted for it."""

    consumer: str
    size: int
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFaltered:
    """A loop met an error it cannot judge, and goes on after a pause."""

    worker: str
    error_type: str
    error: str
    retry_after: timedelta

    @classmethod
    def by(cls, error: BaseException, *, worker: str, retry_after: timedelta) -> Self:
        """Tell of ``error``."""
        return cls(worker=worker, error_type=type(error).__name__, error=text_of(error), retry_after=retry_after)


Event = (
    MessagesPublished
    | SettlementRefused
    | RecordParked
    | RecordsRepublished
    | EpochBegun
    | CursorRebased
    | LogGapFound
    | DestinationNotReady
    | BrokerAway
    | MessageHandled
    | DuplicateSuppressed
    | MessageDiscarded
    | MessageRouted
    | MessageFiltered
    | AttemptFailed
    | MessageHeld
    | HeldKeyFull
    | CauseAwaited
    | CauseMissing
    | MessageDead
    | BreakerOpened
    | BreakerClosed
    | AlertFailed
    | GapFound
    | GapSkipped
    | GapFetched
    | LineBegun
    | SagaEnded
    | SagaStepFailed
    | SagaNeedsAttention
    | SagaUnreadable
    | InboxPurged
    | ConsumerStopped
    | RunRolledBack
    | FlowStuck
    | FlowDoubtful
    | WorkerFaltered
)
