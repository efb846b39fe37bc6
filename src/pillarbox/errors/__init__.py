"""Every exception the library raises; the second level says who must act.

::

    PillarboxError
    ├── ConfigurationError                  the programmer must act
    │   ├── DuplicateConsumerError
    │   ├── DuplicateTypeError
    │   ├── InvalidSetupError
    │   ├── MissingExtraError               also ImportError
    │   ├── MissingKeyError                 also ValueError
    │   ├── NoTransactionError
    │   ├── SchemaVersionError
    │   ├── UnreachableRuleError
    │   ├── UnregisteredConsumerError
    │   ├── UnsatisfiedInjectionError       also TypeError
    │   └── UnsupportedCapabilityError
    ├── TransientError                      waiting may help; the retry policy decides
    │   ├── BrokerUnavailableError          also ConnectionError
    │   ├── LogBrokenError
    │   ├── StoreUnavailableError           also ConnectionError
    │   └── ThrottledError
    ├── PermanentError                      waiting cannot help; the message goes to the dead letters
    │   ├── ConditionError
    │   ├── DecodeError                     also ValueError
    │   ├── HandlerCrashedError
    │   ├── InvalidMessageError             also ValueError
    │   ├── InvalidReturnError              also TypeError
    │   ├── RoutingLoopError
    │   ├── TransactionEndedError
    │   ├── UnknownMessageTypeError         also LookupError
    │   └── UnmatchedMessageError
    ├── ConflictError                       another worker won; read again and try again
    │   └── LeaseLostError
    ├── NotFoundError                       the operator named something that is not there; also LookupError
    ├── ReplayedTooOftenError               the operator must look first, and may force it
    └── InternalError                       our invariant broke; please report it

Handlers may raise ``TransientError``, ``ThrottledError`` and ``PermanentError`` themselves, with a text of their own.
Every other class builds its text from keyword arguments, which stay readable as attributes. All can be pickled.
"""

from pillarbox.errors.handling import (
    ConditionError,
    DecodeError,
    HandlerCrashedError,
    InvalidMessageError,
    InvalidReturnError,
    RoutingLoopError,
    TransactionEndedError,
    UnknownMessageTypeError,
    UnmatchedMessageError,
)
from pillarbox.errors.kinds import (
    ConfigurationError,
    ConflictError,
    InternalError,
    NotFoundError,
    PermanentError,
    PillarboxError,
    ReplayedTooOftenError,
    TransientError,
)
from pillarbox.errors.setup import (
    DuplicateConsumerError,
    DuplicateTypeError,
    InvalidSetupError,
    MissingExtraError,
    MissingKeyError,
    NoTransactionError,
    SchemaVersionError,
    UnreachableRuleError,
    UnregisteredConsumerError,
    UnsatisfiedInjectionError,
    UnsupportedCapabilityError,
)
from pillarbox.errors.waiting import (
    BrokerUnavailableError,
    LeaseLostError,
    LogBrokenError,
    StoreUnavailableError,
    ThrottledError,
)

__all__ = [
    "BrokerUnavailableError",
    "ConditionError",
    "ConfigurationError",
    "ConflictError",
    "DecodeError",
    "DuplicateConsumerError",
    "DuplicateTypeError",
    "HandlerCrashedError",
    "InternalError",
    "InvalidMessageError",
    "InvalidReturnError",
    "InvalidSetupError",
    "LeaseLostError",
    "LogBrokenError",
    "MissingExtraError",
    "MissingKeyError",
    "NoTransactionError",
    "NotFoundError",
    "PermanentError",
    "PillarboxError",
    "ReplayedTooOftenError",
    "RoutingLoopError",
    "SchemaVersionError",
    "StoreUnavailableError",
    "ThrottledError",
    "TransactionEndedError",
    "TransientError",
    "UnknownMessageTypeError",
    "UnmatchedMessageError",
    "UnreachableRuleError",
    "UnregisteredConsumerError",
    "UnsatisfiedInjectionError",
    "UnsupportedCapabilityError",
]
