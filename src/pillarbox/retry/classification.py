"""What kind of failure an exception is: data, matched by class, nearest class first.

What the program says of its own classes counts before everything else. Then counts what an error carries: how long it
asks to be left alone, the status of an HTTP response, the code of a database. Then come the rules for classes, those of
libraries by name, so that none of them is needed. An error of which nothing is known is judged by its cause.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import cast

from pillarbox.errors import ConfigurationError, ConflictError, PermanentError, PillarboxError, TransientError
from pillarbox.errors.reading import read
from pillarbox.retry.evidence import Failure, Kind, by_evidence

LONGEST_CHAIN = 5
"""How many causes of causes are looked at."""
LONGEST_ASKED = timedelta(days=3650)
"""For so long a program may ask to be left alone: no database keeps all that a timedelta holds."""
DEFAULT_RULES: Mapping[type[BaseException] | str, Kind] = {
    PermanentError: "permanent",
    TransientError: "transient",
    ConflictError: "conflict",
    TimeoutError: "transient",
    ConnectionError: "transient",
    OSError: "transient",
    # Of this machine, not of the network: mostly a mistake in the program or in how it was set up.
    FileNotFoundError: "unknown",
    FileExistsError: "unknown",
    IsADirectoryError: "unknown",
    NotADirectoryError: "unknown",
    PermissionError: "unknown",
    # The same at every attempt, until another release.
    NameError: "permanent",
    NotImplementedError: "permanent",
    ImportError: "permanent",
    SyntaxError: "permanent",
    Exception: "unknown",
    # A value that the database does not take is the same at every attempt. What breaks a constraint may be early, or
    # the loser of a race, and pass the next time: unknown, as everything else of a database that gives no code.
    "sqlalchemy.exc.DataError": "permanent",
    "sqlalchemy.exc.TimeoutError": "transient",
    "psycopg.DataError": "permanent",
    "psycopg.OperationalError": "transient",
    "psycopg_pool.PoolTimeout": "transient",
    "pymysql.err.DataError": "permanent",
    "asyncmy.errors.DataError": "permanent",
    "aiohttp.client_exceptions.ClientConnectionError": "transient",
    "aiohttp.client_exceptions.ClientPayloadError": "transient",
    "botocore.exceptions.HTTPClientError": "transient",
    "grpc.RpcError": "transient",
    "pillarbox.saga.locks.ResourceLocked": "transient",
    "httpx.TransportError": "transient",
    "httpcore.NetworkError": "transient",
    "redis.exceptions.ConnectionError": "transient",
    "redis.exceptions.TimeoutError": "transient",
    "urllib3.exceptions.HTTPError": "transient",
}
_WORST_FIRST: tuple[Kind, ...] = ("permanent", "conflict", "throttled", "transient", "unknown")


@dataclass(frozen=True, slots=True)
class FailureRule:
    """What a program says of some classes of exceptions; see ``permanent`` and ``transient``."""

    kind: Kind
    types: tuple[type[BaseException], ...]


def permanent(*types: type[BaseException]) -> FailureRule:
    """Say that waiting cannot help against ``types`` and their subclasses: the message is dead at once."""
    return _rule("permanent", types)


def transient(*types: type[BaseException]) -> FailureRule:
    """Say that waiting may help against ``types`` and their subclasses; it counts against a dependency."""
    return _rule("transient", types)


def _rule(kind: Kind, types: tuple[object, ...]) -> FailureRule:
    classes = tuple(one for one in types if isinstance(one, type) and issubclass(one, BaseException))
    if not types or len(classes) < len(types):
        raise ConfigurationError(f"{kind}() takes classes of exceptions, got {types!r}")
    return FailureRule(kind=kind, types=classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """Rules by exception class; the rule of the nearest class in the exception's ancestry counts.

    Attributes:
        said: what the program says, before the defaults; for ``Exception`` itself it says what else is unknown.
    """

    said: Mapping[type[BaseException], Kind] = field(default_factory=dict[type[BaseException], Kind])

    def with_rules(self, kind: Kind, *types: type[BaseException]) -> Classification:
        """Return the same rules with ``types`` counted as ``kind``."""
        return Classification(said={**self.said, **dict.fromkeys(types, kind)})

    def saying(self, *rules: FailureRule) -> Classification:
        """Return the same rules with ``rules`` before them."""
        return Classification(said={**self.said, **{kind: rule.kind for rule in rules for kind in rule.types}})

    def classify(self, error: BaseException, *, now: datetime | None = None) -> Failure:
        """Tell what kind of failure ``error`` is.

        An attribute ``retry_after`` (timedelta), or such a header of its response, means throttled.

        Args:
            error: the exception.
            now: what a date in that header is counted from where the response bears none of its own.
        """
        failure = Failure(kind="unknown")
        for one in _with_causes(error):
            failure = self._judge(one, now)
            if failure.kind != "unknown":
                break
        return failure

    def _judge(self, error: BaseException, now: datetime | None) -> Failure:
        asked = _asked(error)
        if (kind := self._said_of(error)) is not None:
            return asked if asked is not None and kind in ("transient", "throttled") else Failure(kind=kind)
        if asked is not None:
            return asked
        if isinstance(error, PillarboxError):
            return Failure(kind=self._by_class(error))
        if isinstance(error, BaseExceptionGroup):
            return self._worst_of(cast("BaseExceptionGroup[BaseException]", error), now)
        return by_evidence(error, now=now) or Failure(kind=self._by_class(error))

    def _said_of(self, error: BaseException) -> Kind | None:
        for ancestor in type(error).__mro__:
            if ancestor in (Exception, BaseException):
                return None
            if (kind := self.said.get(ancestor)) is not None:
                return kind
        return None

    def _by_class(self, error: BaseException) -> Kind:
        for ancestor in type(error).__mro__:
            kind = (
                self.said.get(ancestor)
                or DEFAULT_RULES.get(ancestor)
                or DEFAULT_RULES.get(f"{ancestor.__module__}.{ancestor.__qualname__}")
            )
            if kind is not None:
                return kind
        return "unknown"

    def _worst_of(self, errors: BaseExceptionGroup[BaseException], now: datetime | None) -> Failure:
        failures = [self.classify(one, now=now) for one in errors.exceptions]
        return min(failures, key=lambda failure: _WORST_FIRST.index(failure.kind))


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """Return ``error`` and what it was raised from, step by step."""
    cause: BaseException | None = error
    for _ in range(LONGEST_CHAIN):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__


def _asked(error: BaseException) -> Failure | None:
    retry_after = read(error, "retry_after")
    if isinstance(retry_after, timedelta) and retry_after >= timedelta(0):
        return Failure(kind="throttled", retry_after=min(retry_after, LONGEST_ASKED))
    return None
