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
    │   ├── RetentionTooShortError
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
    │       └── DependencyDownError
    ├── PermanentError                      waiting cannot help; the message goes to the dead letters
    │   ├── CauseMissingError
    │   ├── ConditionError
    │   ├── DecodeError                     also ValueError
    │   ├── HandlerCrashedError
    │   ├── InDoubtError
    │   ├── InvalidMessageError             also ValueError
    │   ├── InvalidReturnError              also TypeError
    │   ├── MissingBusinessKeyError         also ValueError
    │   ├── RoutingLoopError
    │   ├── SequenceError
    │   ├── TransactionEndedError
    │   ├── UnknownMessageTypeError         also LookupError
    │   └── UnmatchedMessageError
    ├── ConflictError                       another worker won; read again and try again
    │   └── LeaseLostError
    ├── NotFoundError                       the operator named something that is not there; also LookupError
    ├── ReplayTooLateError                  the operator must look first, and may force it
    ├── ReplayedTooOftenError               the operator must look first, and may force it
    └── InternalError                       our invariant broke; please report it

Handlers may raise ``TransientError``, ``ThrottledError``, ``DependencyDownError`` and
``PermanentError`` themselves, with a text of their own.
Every other class builds its text from keyword arguments, which stay readable as attributes. All can be pickled.
"""

from pillarbox.errors.handling import (
    CauseMissingError,
    ConditionError,
    DecodeError,
    HandlerCrashedError,
    InDoubtError,
    InvalidMessageError,
    InvalidReturnError,
    MissingBusinessKeyError,
    RoutingLoopError,
    SequenceError,
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
    ReplayTooLateError,
    TransientError,
)
from pillarbox.errors.setup import (
    DuplicateConsumerError,
    DuplicateTypeError,
    InvalidSetupError,
    MissingExtraError,
    MissingKeyError,
    NoTransactionError,
    RetentionTooShortError,
    SchemaVersionError,
    UnreachableRuleError,
    UnregisteredConsumerError,
    UnsatisfiedInjectionError,
    UnsupportedCapabilityError,
)
from pillarbox.errors.waiting import (
    BrokerUnavailableError,
    DependencyDownError,
    LeaseLostError,
    LogBrokenError,
    StoreUnavailableError,
    ThrottledError,
)

__all__ = [
    "BrokerUnavailableError",
    "CauseMissingError",
    "ConditionError",
    "ConfigurationError",
    "ConflictError",
    "DecodeError",
    "DependencyDownError",
    "DuplicateConsumerError",
    "DuplicateTypeError",
    "HandlerCrashedError",
    "InDoubtError",
    "InternalError",
    "InvalidMessageError",
    "InvalidReturnError",
    "InvalidSetupError",
    "LeaseLostError",
    "LogBrokenError",
    "MissingBusinessKeyError",
    "MissingExtraError",
    "MissingKeyError",
    "NoTransactionError",
    "NotFoundError",
    "PermanentError",
    "PillarboxError",
    "ReplayTooLateError",
    "ReplayedTooOftenError",
    "RetentionTooShortError",
    "RoutingLoopError",
    "SchemaVersionError",
    "SequenceError",
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
