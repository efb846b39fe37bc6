"""What the courses of sagas have in common, and what they leave to be done outside of their transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox.consumer.effects import Raised, Returned
from pillarbox.consumer.transact import HandlerWatch, sync_side
from pillarbox.idempotency.outside_calls import OutsideCalls
from pillarbox.outbox import Outbox
from pillarbox.retry import Classification
from pillarbox.saga.context import SagaContext
from pillarbox.saga.definition import Kind
from pillarbox.saga.happening import Act
from pillarbox.saga.invoking import Invoker
from pillarbox.saga.locks import SagaLockStore
from pillarbox.saga.resolve import DefinedAct
from pillarbox.saga.state import StateCodec
from pillarbox.saga.store import SagaKey
from pillarbox.saga.verdicts import Verdicts


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the courses of all sagas of a box have in common.

    Attributes:
        replies: the address of the queue that answers come to.
        redact: what the text of a failure goes through before it is stored.
        translate: names a driver's error in the library's words.
    """

    service: str
    replies: str
    invoker: Invoker
    states: StateCodec
    outbox: Outbox
    calls: OutsideCalls
    locks: SagaLockStore
    classification: Classification
    redact: Callable[[str], str]
    translate: Callable[[Exception], Exception]
    now: Callable[[], datetime]
    dice: Callable[[], float]
    new_token: Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call to the outside whose intent is durable.

    Attributes:
        state: what the saga's state was when it was decided.
        token: stands in the journal for as long as the call is this process's to make.
    """

    key: SagaKey
    act: Act
    defined: DefinedAct
    given: object
    state: str
    context: SagaContext
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a call; no answer where it was not made, since it was too late for it."""

    call: Call
    answer: Returned | Raised | None


class NeedsTransaction(Exception):  # noqa: N818  # a turn of the road, not an error
    """A course that began without a transaction has come to what is done in one."""


@dataclass(slots=True)
class Surrounding:
    """The transaction that courses run in.

    Attributes:
        verdicts: calls that failed in a transaction that was rolled back, and how; they are not made once more.
        has_room: tells whether a saga that has called a function within the transaction may call another one.
        stops: this process is about to end, and begins no call any more.
    """

    connection: AsyncConnection
    service: str
    verdicts: Verdicts
    has_room: Callable[[], bool]
    stops: bool = False
    _watch: HandlerWatch | None = None

    def may_be_followed_by(self, acts: Sequence[Act], *, steps: int) -> bool:
        """Tell whether the calls among ``acts`` may follow it, of a saga that has called so many ``steps`` in it."""
        has_calls = any(act.kind is Kind.OUTSIDE for act in acts)
        return not has_calls or (not self.stops and (not steps or self.has_room()))

    @property
    def watch(self) -> HandlerWatch:
        """What sees to it that functions do not end the transaction; from the first one on."""
        if self._watch is None:
            self._watch = HandlerWatch(sync_side(self.connection), consumer=self.service)
        return self._watch
