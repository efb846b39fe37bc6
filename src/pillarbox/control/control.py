"""Everything an operator can ask and decide, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from pillarbox.control.consumers import ConsumersControl
from pillarbox.control.gaps import GapsControl
from pillarbox.control.health import HealthCheck
from pillarbox.control.held import HeldControl
from pillarbox.control.inbox import InboxControl
from pillarbox.control.outbox import OutboxControl
from pillarbox.deadletter import DeadLetters
from pillarbox.flow import Flows
from pillarbox.idempotency.outside_calls import OutsideCalls
from pillarbox.saga.control import SagaControl


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The control bus of one database.

    EIP: *Control Bus*.
    """

    health: HealthCheck
    outbox: OutboxControl
    inbox: InboxControl
    consumers: ConsumersControl
    held: HeldControl
    gaps: GapsControl
    dead_letters: DeadLetters
    sagas: SagaControl
    calls: OutsideCalls
    flows: Flows
