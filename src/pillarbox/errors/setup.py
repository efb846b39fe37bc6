"""What is wrong with a program as it was written or set up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.errors.kinds import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta


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


class RetentionTooShortError(ConfigurationError):
    """The inbox would forget ids before their messages can have come for the last time; nothing was started.

    Attributes:
        consumer: The durable name, ``service/name``.
        keep: For how long ids are kept.
        retries: How long this consumer's retries may take.
        replay_within: How long after that a dead letter may be replayed.
    """

    def __init__(self, *, consumer: str, keep: timedelta, retries: timedelta, replay_within: timedelta) -> None:
        super().__init__(
            f"the inbox of consumer {consumer!r} keeps ids for {keep}, but its retries may take {retries} and a dead "
            f"letter may be replayed {replay_within} later, {_sum(retries, replay_within)} in all; raise keep= or "
            "lower replay_within= in Settings(inbox=InboxSettings(…)), or shorten its retry="
        )
        self.consumer = consumer
        self.keep = keep
        self.retries = retries
        self.replay_within = replay_within


def _sum(one: timedelta, other: timedelta) -> str:
    try:
        return str(one + other)
    except OverflowError:
        return "too long to count"


class SchemaVersionError(ConfigurationError):
    """The tables in the store are of another version than this release works with.

    Attributes:
        found: The version of the tables; ``None`` when there are none.
    """

    def __init__(self, *, found: int | None, expected: int) -> None:
        if found is None:
            text = (
                "the store has no Pillarbox tables; create them with: pillarbox migrate. "
                "On SQLite, in memory too, opening the box does it: async with box"
            )
        elif found < expected:
            text = f"the tables are of version {found}, {expected} is needed; bring them up with: pillarbox migrate"
        else:
            text = f"the tables are of version {found}, this release knows {expected}; upgrade Pillarbox"
        super().__init__(text)
        self.found = found
        self.expected = expected


class UnreachableRuleError(ConfigurationError):
    """A rule of a router can never decide anything; nothing was started.

    Attributes:
        router: The name of the router.
        rule: The name of the rule.
        reason: Why it is never reached.
    """

    def __init__(self, *, router: str, rule: str, reason: str) -> None:
        super().__init__(f"rule {rule!r} of {router!r} can never decide: {reason}; move it up, mend it or remove it")
        self.router = router
        self.rule = rule
        self.reason = reason


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
        super().__init__("\n- ".join(problems))
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
