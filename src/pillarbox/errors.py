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
    │   ├── UnregisteredConsumerError
    │   ├── UnsatisfiedInjectionError       also TypeError
    │   └── UnsupportedCapabilityError
    ├── TransientError                      waiting may help; the retry policy decides
    │   ├── BrokerUnavailableError          also ConnectionError
    │   ├── LogBrokenError
    │   ├── StoreUnavailableError           also ConnectionError
    │   └── ThrottledError
    ├── PermanentError                      waiting cannot help; the message goes to the dead letters
    │   ├── DecodeError                     also ValueError
    │   ├── HandlerCrashedError
    │   ├── InvalidMessageError             also ValueError
    │   ├── InvalidReturnError              also TypeError
    │   ├── TransactionEndedError
    │   └── UnknownMessageTypeError         also LookupError
    ├── ConflictError                       another worker won; read again and try again
    │   └── LeaseLostError
    ├── NotFoundError                       the operator named something that is not there; also LookupError
    └── InternalError                       our invariant broke; please report it

Handlers may raise ``TransientError``, ``ThrottledError`` and ``PermanentError`` themselves, with a text of their own.
Every other class builds its text from keyword arguments, which stay readable as attributes. All can be pickled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta

_Error = TypeVar("_Error", bound="PillarboxError")


def _rebuild(kind: type[_Error], args: tuple[object, ...], attributes: Mapping[str, object]) -> _Error:
    """Restore a pickled error without running its constructor, whose arguments are keyword-only."""
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    return error


class PillarboxError(Exception):
    """Root of every exception that the library raises."""

    def __init__(self, message: str, /) -> None:
        """Keep ``message``: what happened, to which object, and what to do."""
        super().__init__(message)

    def __reduce__(self) -> tuple[Callable[..., PillarboxError], tuple[object, ...]]:
        """Pickle by text and attributes, so that errors cross process borders."""
        return _rebuild, (type(self), self.args, dict(self.__dict__))


class ConfigurationError(PillarboxError):
    """The program is wrong as written or as set up; the programmer must act."""


class DuplicateConsumerError(ConfigurationError):
    """Two consumers share a durable name, or claim the same command.

    Attributes:
        consumer: The durable name, or the command's type.
    """

    def __init__(self, *, consumer: str, first: str, second: str) -> None:
        super().__init__(f"{consumer!r} is already taken by {first}; give {second} another name or remove one of them")
        self.consumer = consumer
        self.first = first
        self.second = second


class DuplicateTypeError(ConfigurationError):
    """Two classes bear one logical message type and version in the same box.

    Attributes:
        message_type: The logical name, as in ``order.placed``.
    """

    def __init__(self, *, message_type: str, version: int, first: str, second: str) -> None:
        super().__init__(
            f"{message_type!r} version {version} is already registered for {first}; "
            f"give {second} another name or another version"
        )
        self.message_type = message_type
        self.version = version
        self.first = first
        self.second = second


class InvalidSetupError(ConfigurationError):
    """Start-up found problems; all of them are listed, and nothing was started."""

    def __init__(self, *, problems: Sequence[ConfigurationError]) -> None:
        lines = "".join(f"\n- {problem}" for problem in problems)
        super().__init__(f"the box cannot start; mend all of these:{lines}")
        self.problems = tuple(problems)


class MissingExtraError(ConfigurationError, ImportError):
    """An optional driver is not installed.

    Attributes:
        extra: The extra of Pillarbox that brings it.
    """

    def __init__(self, *, module: str, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs {module!r}; install it with: pip install 'pillarbox[{extra}]'")
        self.module = module
        self.extra = extra
        self.needed_for = needed_for


class MissingKeyError(ConfigurationError, ValueError):
    """The field that holds a message's key is ``None`` at publish; nothing was written."""

    def __init__(self, *, message_type: str, field: str) -> None:
        super().__init__(
            f"the key field {field!r} of {message_type!r} is None; "
            "flush the session first so that the database assigns it, or pass key="
        )
        self.message_type = message_type
        self.field = field


class NoTransactionError(ConfigurationError):
    """The connection given as ``tx`` has no open transaction to join; nothing was written.

    Attributes:
        connection: The kind of connection that was given.
    """

    def __init__(
        self, *, connection: str, reason: str, remedy: str = "begin a transaction, and publish before committing it"
    ) -> None:
        super().__init__(f"{connection} has no transaction that can be joined: {reason}; {remedy}")
        self.connection = connection
        self.reason = reason
        self.remedy = remedy


class SchemaVersionError(ConfigurationError):
    """The tables in the store are of another version than this release works with.

    Attributes:
        found: The version of the tables; ``None`` when there are none.
    """

    def __init__(self, *, found: int | None, expected: int) -> None:
        if found is None:
            text = "the store has no Pillarbox tables; create them with: pillarbox migrate"
        elif found < expected:
            text = f"the tables are of version {found}, {expected} is needed; bring them up with: pillarbox migrate"
        else:
            text = f"the tables are of version {found}, this release knows {expected}; upgrade Pillarbox"
        super().__init__(text)
        self.found = found
        self.expected = expected


class UnregisteredConsumerError(ConfigurationError):
    """A consumer known to the store has work pending but is no longer registered.

    Attributes:
        consumer: The durable name, ``service/name``.
    """

    def __init__(self, *, consumer: str, pending: int) -> None:
        super().__init__(
            f"consumer {consumer!r} is not registered any more, and {pending} messages wait for it; register it "
            f"again, or name its successor with renamed_from={consumer.rpartition('/')[2]!r}"
        )
        self.consumer = consumer
        self.pending = pending


class UnsatisfiedInjectionError(ConfigurationError, TypeError):
    """Handlers ask by annotation for what nothing provides.

    Attributes:
        problems: One line per parameter that cannot be satisfied.
    """

    def __init__(self, *, problems: Sequence[str]) -> None:
        lines = "".join(f"\n- {problem}" for problem in problems)
        super().__init__(f"nothing provides these parameters; add box.provide(Type, factory) or mend them:{lines}")
        self.problems = tuple(problems)


class UnsupportedCapabilityError(ConfigurationError):
    """The program demands what the chosen store or broker does not declare."""

    def __init__(self, *, adapter: str, capability: str, demanded_by: str) -> None:
        super().__init__(
            f"{demanded_by} needs {capability}, which {adapter} does not offer; "
            "choose another adapter or drop the demand"
        )
        self.adapter = adapter
        self.capability = capability
        self.demanded_by = demanded_by


class TransientError(PillarboxError):
    """Waiting may help; the retry policy decides when the attempt is made again."""


class BrokerUnavailableError(TransientError, ConnectionError):
    """The broker cannot be reached or did not answer in time; what was not confirmed may have arrived.

    Attributes:
        reason: What went wrong, without credentials.
    """

    def __init__(self, *, broker: str, reason: str) -> None:
        super().__init__(f"broker {broker} is unavailable: {reason}; check that it runs and can be reached")
        self.broker = broker
        self.reason = reason


class LogBrokenError(TransientError):
    """The database's log cannot be read on from where the relay was; it is healed when it is opened again.

    Attributes:
        slot: The replication slot.
        reason: What the database says.
    """

    def __init__(self, *, slot: str, reason: str) -> None:
        super().__init__(f"the log cannot be read on through the replication slot {slot!r}: {reason}")
        self.slot = slot
        self.reason = reason


class StoreUnavailableError(TransientError, ConnectionError):
    """The database cannot be reached or dropped the connection; an unconfirmed commit may have happened.

    Attributes:
        reason: What went wrong.
    """

    def __init__(self, *, store: str, reason: str) -> None:
        super().__init__(f"store {store} is unavailable: {reason}; check that it runs and can be reached")
        self.store = store
        self.reason = reason


class ThrottledError(TransientError):
    """The other side asked to slow down; raise it in a handler to choose the delay.

    Attributes:
        retry_after: How long to wait; ``None`` leaves it to the retry policy.
    """

    def __init__(self, message: str, /, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(PillarboxError):
    """Waiting cannot help; the message goes to the dead letters at once."""


class DecodeError(PermanentError, ValueError):
    """A body cannot be read as the type that its envelope names; the bytes are kept as they came.

    Attributes:
        message_type: The logical name on the envelope; ``None`` when even that could not be read.
        reason: What is wrong with the body.
    """

    def __init__(self, *, reason: str, message_type: str | None = None) -> None:
        what = "the message" if message_type is None else f"the body of {message_type!r}"
        super().__init__(f"{what} cannot be decoded: {reason}; mend the producer, or edit and replay the dead letter")
        self.message_type = message_type
        self.reason = reason


class HandlerCrashedError(PermanentError):
    """A message ended the process each time it was handled alone; it is in the dead letters.

    Attributes:
        consumer: The consumer whose handler it was.
        crashes: How many processes it ended.
    """

    def __init__(self, *, consumer: str, crashes: int) -> None:
        """Name the consumer."""
        super().__init__(
            f"{crashes} processes ended while {consumer!r} handled this message alone; mend the handler, then replay it"
        )
        self.consumer = consumer
        self.crashes = crashes


class InvalidMessageError(PermanentError, ValueError):
    """A message was refused at publish, inside the caller's transaction; nothing was written.

    Attributes:
        message_type: The logical name of the message, or the class that has none.
        reason: What is wrong with it: its size, a value, a name, a header.
    """

    def __init__(self, *, message_type: str, reason: str) -> None:
        super().__init__(f"{message_type!r} cannot be published: {reason}")
        self.message_type = message_type
        self.reason = reason


class InvalidReturnError(PermanentError, TypeError):
    """A handler returned something that is no message; its attempt was rolled back."""

    def __init__(self, *, consumer: str, returned: str) -> None:
        super().__init__(
            f"consumer {consumer!r} returned {returned}; return messages, tuples or lists of messages, or None"
        )
        self.consumer = consumer
        self.returned = returned


class TransactionEndedError(PermanentError):
    """A handler ended the transaction that it was lent; its effects may already be committed."""

    def __init__(self, *, consumer: str) -> None:
        super().__init__(
            f"consumer {consumer!r} committed or rolled back the transaction it was lent; "
            "leave that to Pillarbox, and use a savepoint to undo a part"
        )
        self.consumer = consumer


class UnknownMessageTypeError(PermanentError, LookupError):
    """No class is registered for a logical message type and version.

    Attributes:
        message_type: The logical name, as in ``order.placed``.
    """

    def __init__(self, *, message_type: str, version: int) -> None:
        super().__init__(
            f"no class is registered for {message_type!r} version {version}; "
            "register it with box.register(...), or add an upcaster from that version"
        )
        self.message_type = message_type
        self.version = version


class ConflictError(PillarboxError):
    """Another worker won; nothing was changed: read again and try again."""


class LeaseLostError(ConflictError):
    """A lease ran out or was taken over; what was to be written under it was not.

    Attributes:
        token: The fencing token that is no longer valid.
    """

    def __init__(self, *, lease: str, token: int | str) -> None:
        super().__init__(
            f"the lease of {lease} with token {token} is no longer ours; stop the work done under it and lease it again"
        )
        self.lease = lease
        self.token = token


class NotFoundError(PillarboxError, LookupError):
    """An operator's verb named something that is not there; nothing was changed.

    Attributes:
        kind: What was looked for, as in ``dead letter``.
        identifier: The name or id that was given.
    """

    def __init__(self, *, kind: str, identifier: str) -> None:
        super().__init__(f"there is no {kind} {identifier!r}; it may have been settled meanwhile: list them again")
        self.kind = kind
        self.identifier = identifier


class InternalError(PillarboxError):
    """An invariant of the library broke; please report it with the traceback."""
