"""Control: what operators ask and decide, the same for the command line and the console.

Guarantee: every answer is computed from the tables, by any process, also while no relay and no consumer runs.
Not promised: that a count still holds when it is read; work goes on meanwhile.
Source: EIP, *Control Bus*; the reading order is control, health, diagnosis, outbox, inbox, consumers, held, gaps,
inspection.
"""

from pillarbox.control.consumers import ConsumersControl, ConsumerView
from pillarbox.control.control import Control
from pillarbox.control.diagnosis import Doctor, Finding
from pillarbox.control.gaps import GapsControl
from pillarbox.control.health import Health, HealthCheck, HealthLimits, HealthStatus, Problem, Vitals, judge
from pillarbox.control.inbox import InboxControl
from pillarbox.control.inspection import HeldKey, InboxCount, Inspection, KnownConsumer
from pillarbox.control.outbox import OutboxControl, Republication

__all__ = [
    "ConsumerView",
    "ConsumersControl",
    "Control",
    "Doctor",
    "Finding",
    "GapsControl",
    "Health",
    "HealthCheck",
    "HealthLimits",
    "HealthStatus",
    "HeldKey",
    "InboxControl",
    "InboxCount",
    "Inspection",
    "KnownConsumer",
    "OutboxControl",
    "Problem",
    "Republication",
    "Vitals",
    "judge",
]
