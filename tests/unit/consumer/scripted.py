"""A run driven step by step: the stores are sets in memory that note what they were told, the handler is a script."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from msgspec import structs

from pillarbox.consumer.effects import Invoke, Raised, Returned
from pillarbox.consumer.gate import OPEN
from pillarbox.consumer.intake import Intake
from pillarbox.consumer.item import Item
from pillarbox.consumer.report import RunReport
from pillarbox.consumer.run import Run, RunProgram, RunRules
from pillarbox.deadletter.redaction import nothing_redacted
from pillarbox.errors import DecodeError
from pillarbox.holding import hold_key_of
from pillarbox.idempotency import AttemptStore, InboxStore, Suspect
from pillarbox.message import Limits, Message, event
from pillarbox.observe import HeldKeyFull
from pillarbox.outbox import Outbox, OutboxRecord, OutboxState, OutboxStore
from pillarbox.retry import Classification, Retry
from pillarbox.serialization import JsonCodec
from pillarbox.testing import VirtualClock
from tests.messages import message

if TYPE_CHECKING:
    from pillarbox.transaction import Program

CONSUMER = "shop/reserve"


@event("stock.reserved", key="order_id")
@dataclass(frozen=True)
class StockReserved:
    """What scripted handlers publish."""

    order_id: str | None = "o-1"


class InboxSet(InboxStore):
    """The processed ids, of committed and open transactions alike: a script does not roll back."""

    def __init__(self) -> None:
        self.ids: set[str] = set()

    def record(self, consumer: str, message_ids: Sequence[str]) -> Program[Collection[str]]:
        yield from ()
        new = set(message_ids) - self.ids
        self.ids |= new
        return new

    def forget(self, consumer: str, message_ids: Sequence[str]) -> Program[None]:
        yield from ()
        self.ids -= set(message_ids)

    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        raise NotImplementedError


class AttemptsSet(AttemptStore):
    """The messages under way, and what a dead worker is said to have left behind."""

    def __init__(self) -> None:
        self.under_way: set[str] = set()
        self.left_behind: dict[str, Suspect] = {}
        self.crashes_alone: dict[str, int] = {}

    def start(self, consumer: str, message_ids: Sequence[str], *, worker: str) -> Program[Mapping[str, Suspect]]:
        yield from ()
        self.under_way |= set(message_ids)
        return {one: suspect for one, suspect in self.left_behind.items() if one in message_ids}

    def start_among_few(self, consumer: str, message_ids: Sequence[str], *, worker: str) -> Program[None]:
        """Note nothing."""
        yield from ()

    def start_alone(self, consumer: str, message_id: str, *, worker: str) -> Program[int]:
        yield from ()
        return self.crashes_alone.get(message_id, 0)

    def clear(self, consumer: str, message_ids: Sequence[str]) -> Program[None]:
        yield from ()
        self.under_way -= set(message_ids)

    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        raise NotImplementedError


class OutboxList(OutboxStore):
    """What was published."""

    def __init__(self) -> None:
        self.records: list[OutboxRecord] = []

    def append(self, records: Sequence[OutboxRecord]) -> Program[None]:
        yield from ()
        self.records += records

    def state(self) -> Program[OutboxState]:
        raise NotImplementedError


@dataclass
class IntakeNotes(Intake):
    """Notes what became of each message."""

    held_keys: frozenset[str] = frozenset()
    full_keys: dict[str, int] = field(default_factory=dict[str, int])
    """How many runs find no room behind a held key."""
    retried: list[str] = field(default_factory=list[str])
    dead: list[str] = field(default_factory=list[str])
    behind: list[str] = field(default_factory=list[str])
    accepted: list[str] = field(default_factory=list[str])
    done: list[str] = field(default_factory=list[str])

    def admit(self, items: Sequence[Item]) -> Program[Sequence[Item]]:
        yield from ()
        full = {key for key, runs in self.full_keys.items() if runs > 0}
        for item in items:
            item.returned, item.notice = item.hold_key in full, None
            if item.returned:
                item.notice = HeldKeyFull(consumer=CONSUMER, message_id=item.message.id, limit=3)
        for key in full.intersection(item.hold_key for item in items):
            self.full_keys[key] -= 1
        return [item for item in items if item.hold_key not in self.held_keys | full]

    def retry_later(self, items: Sequence[Item]) -> Program[None]:
        yield from ()
        self.retried += ids(items)

    def bury(self, items: Sequence[Item]) -> Program[None]:
        yield from ()
        self.dead += ids(items)

    def put_behind(self, items: Sequence[Item]) -> Program[None]:
        yield from ()
        self.behind += ids(items)

    def accept(self, items: Sequence[Item], done: Sequence[Item]) -> Program[None]:
        yield from ()
        self.accepted += ids(items)
        self.done += ids(done)


Answer = Returned | Raised
Script = Callable[[str, int], Answer]
"""From a message's id and the number of its attempt to what the handler does."""


@dataclass
class Stage:
    """Everything that a run meets."""

    rules: RunRules
    inbox: InboxSet
    attempts: AttemptsSet
    outbox: OutboxList
    intake: IntakeNotes
    invoked: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    invocations: list[list[str]] = field(default_factory=list[list[str]])

    def run(self, items: Sequence[Item], script: Script, *, stopped: frozenset[str] = frozenset()) -> RunReport:
        """Step a run to its end, answering each invocation as ``script`` says."""
        return self.step(Run(self.rules).program(items, intake=self.intake, stopped=stopped), script)

    def step(self, program: RunProgram, script: Script) -> RunReport:
        """Step ``program`` to its end."""
        answer: Answer | None = None
        while True:
            try:
                effect = program.send(answer)
            except StopIteration as end:
                report: RunReport = end.value
                return report
            assert isinstance(effect, Invoke), effect
            calls = [(context.message_id, context.attempt) for context in effect.contexts]
            self.invoked += calls
            self.invocations.append([identity for identity, _ in calls])
            answers = [script(*call) for call in calls]
            answer = next((one for one in answers if isinstance(one, Raised)), answers[0])


def stage(
    *,
    retry: Retry | None = None,
    deduplicates: bool = True,
    blocks_key: bool = True,
    batch: int | None = None,
    undecodable: frozenset[str] = frozenset(),
    business_row: Callable[[Message], str] | None = None,
) -> Stage:
    """Set up a run whose stores are empty; jitter always draws the longest wait but a little."""
    inbox, attempts, outbox, clock = InboxSet(), AttemptsSet(), OutboxList(), VirtualClock()

    def decode(one: Message) -> object:
        if one.id in undecodable:
            raise DecodeError(message_type=one.type, reason="it is garbled")
        return one.body

    rules = RunRules(
        consumer=CONSUMER,
        handles=lambda one: one.type == "order.placed",
        decode=decode,
        retry=retry or Retry(),
        classification=Classification(),
        redact=nothing_redacted,
        deduplicates=deduplicates,
        batch=batch,
        blocks_key=blocks_key,
        stops=False,
        inbox=inbox,
        attempts=attempts,
        outbox=Outbox(
            service="shop",
            store=outbox,
            codec=JsonCodec(),
            limits=Limits(),
            new_id=iter(f"new-{number}" for number in range(1000)).__next__,
            now=clock.now,
        ),
        gate=OPEN,
        translate=lambda error: error,
        now=clock.now,
        dice=lambda: 0.5,
        business_row=business_row,
    )
    return Stage(rules=rules, inbox=inbox, attempts=attempts, outbox=outbox, intake=IntakeNotes())


def item(identity: str, *, key: str | None = "k", ordered: bool = True, **facts: object) -> Item:
    """A message in a consumer's hands."""
    carried: Message = structs.replace(message(identity, key=key), **facts)
    return Item(message=carried, hold_key=hold_key_of(carried, ordered=ordered))


def ids(items: Sequence[Item]) -> list[str]:
    """The ids of ``items``."""
    return [one.message.id for one in items]


def returns(value: object = None) -> Script:
    """A handler that always returns ``value``."""
    return lambda _identity, _attempt: Returned(value)


def fails(*identities: str, error: Exception | None = None, touched: bool = False, times: int = 1000) -> Script:
    """A handler that fails for ``identities`` at their first ``times`` attempts."""

    def script(identity: str, attempt: int) -> Answer:
        if identity in identities and attempt <= times:
            return Raised(error or ValueError(f"{identity} failed"), touched=touched)
        return Returned(None)

    return script
