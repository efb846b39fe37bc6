"""Dead letters: what could not be handled, kept as its bytes until someone decides.

Guarantee: a message whose attempts are used up is here, once per consumer, with its attempts and its failures.
Not promised: that anybody looks; watch their number and age.
Source: EIP, *Dead Letter Channel* and *Invalid Message Channel*; the reading order is dead_letters, record, store.
"""

from pillarbox.deadletter.dead_letters import DeadLetters
from pillarbox.deadletter.record import Burial, DeadLetter, DeadLetterState, fingerprint_of, stack_of
from pillarbox.deadletter.store import DeadLetterFilter, DeadLetterStore

__all__ = [
    "Burial",
    "DeadLetter",
    "DeadLetterFilter",
    "DeadLetterState",
    "DeadLetterStore",
    "DeadLetters",
    "fingerprint_of",
    "stack_of",
]
