"""Dead letters: what could not be handled, kept as its bytes until someone decides.

Guarantee: a message whose attempts are used up is here, once per consumer, with its attempts and its failures.
Not promised: that anybody looks; watch their number and age.
Source: EIP, *Dead Letter Channel* and *Invalid Message Channel*; the reading order is dead_letters, decisions, record,
store, groups, editing, replays, runs, archive, batches, driver.
"""

from pillarbox.deadletter.dead_letters import DeadLetters
from pillarbox.deadletter.decisions import Decisions, Order, Ports
from pillarbox.deadletter.fingerprint import fingerprint_of, stack_of
from pillarbox.deadletter.groups import DeadLetterCount, DeadLetterGroup, DeadLetterReview, GroupFilter, GroupState
from pillarbox.deadletter.record import Burial, DeadLetter, DeadLetterState
from pillarbox.deadletter.runs import ReplayRun, ReplayRunStore, RunState
from pillarbox.deadletter.store import Blockers, DeadLetterFilter, DeadLetterStore

__all__ = [
    "Blockers",
    "Burial",
    "DeadLetter",
    "DeadLetterCount",
    "DeadLetterFilter",
    "DeadLetterGroup",
    "DeadLetterReview",
    "DeadLetterState",
    "DeadLetterStore",
    "DeadLetters",
    "Decisions",
    "GroupFilter",
    "GroupState",
    "Order",
    "Ports",
    "ReplayRun",
    "ReplayRunStore",
    "RunState",
    "fingerprint_of",
    "stack_of",
]
