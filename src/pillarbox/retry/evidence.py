"""What an exception carries that tells its kind, whatever its class: an HTTP response, a database's code.

Told by the attributes that clients have in common, so that no client is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeAlias, cast

from pillarbox.errors.reading import read

Kind: TypeAlias = Literal["transient", "permanent", "throttled", "conflict", "unknown"]
"""``conflict`` is the database asking for the transaction again; it is no attempt of the handler."""

LONGEST_WAIT = timedelta(days=1)
"""A server that asks for more is asked again after this."""
WAITING_HELPS = frozenset({408, 421, 425, 503})
NOT_THE_MESSAGE = frozenset({401, 403, 407})
"""The program's own credentials: dead at once would be every message, for the want of one key."""
CONFLICTS = frozenset({"40001", "40P01", "55P03"})
TRANSIENT_CLASSES = frozenset({"08", "53", "57", "58"})
"""Of SQLSTATE: the connection, a want of resources, an operator's intervention, the system."""
DATA = "22"
MYSQL_CONFLICTS = frozenset({1020, 1205, 1213})
MYSQL_TRANSIENT = frozenset({1040, 1053, 1203, 1226, 2002, 2003, 2006, 2013, 2055})
GRPC: Mapping[str, Kind] = {
    "INVALID_ARGUMENT": "permanent",
    "NOT_FOUND": "permanent",
    "ALREADY_EXISTS": "permanent",
    "FAILED_PRECONDITION": "permanent",
    "OUT_OF_RANGE": "permanent",
    "UNIMPLEMENTED": "permanent",
    "UNAUTHENTICATED": "unknown",  # as the statuses that are not the message's
    "PERMISSION_DENIED": "unknown",
    "RESOURCE_EXHAUSTED": "throttled",
}
"""Of the codes of remote calls; against the others waiting may help."""
SQLITE_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failure, classified.

    Attributes:
        kind: whether waiting can help.
        retry_after: how long the other side asked to be left alone; only for ``throttled``.
    """

    kind: Kind
    retry_after: timedelta | None = None


def by_evidence(error: BaseException, *, now: datetime | None) -> Failure | None:
    """Judge by what ``error`` carries; ``None`` if that says nothing, or cannot be read."""
    try:
        return by_http(error, now=now) or by_grpc(error) or by_database(error)
    except Exception:  # what others wrote is gone through, and their attributes are not always what they seem
        return None


def by_http(error: BaseException, *, now: datetime | None) -> Failure | None:
    """Judge by the HTTP status of the response that ``error`` carries; ``None`` if it carries none."""
    response: Any = read(error, "response")
    carrier = error if response is None else response
    if isinstance(response, Mapping):  # botocore
        found: Any = cast("Mapping[str, Any]", response).get("ResponseMetadata")
        facts: Mapping[str, Any] = cast("Mapping[str, Any]", found) if isinstance(found, Mapping) else {}
        status, headers = facts.get("HTTPStatusCode"), facts.get("HTTPHeaders")
    else:
        headers = read(carrier, "headers")
        status = _status(carrier, with_code=response is None and headers is not None)
    if not isinstance(status, int) or not 400 <= status <= 599:
        return None
    try:
        wait = _retry_after(headers, now) if status in (429, 503) else None
    except Exception:  # the status counts all the same
        wait = None
    if wait is not None or status == 429:
        return Failure(kind="throttled", retry_after=wait)
    if status >= 500 or status in WAITING_HELPS:
        return Failure(kind="transient")
    return Failure(kind="unknown" if status in NOT_THE_MESSAGE else "permanent")


def by_grpc(error: BaseException) -> Failure | None:
    """Judge by the code of a remote call; ``None`` if ``error`` is of none, or says no more than its class."""
    code = read(error, "code")
    if not callable(code) or not any(_name(kind) == "grpc.RpcError" for kind in type(error).__mro__):
        return None
    kind = GRPC.get(str(read(code(), "name")))
    return None if kind is None else Failure(kind=kind)


def by_database(error: BaseException) -> Failure | None:
    """Judge by the code that a database driver's error carries, also inside of SQLAlchemy's."""
    if read(error, "connection_invalidated") is True:
        return Failure(kind="transient")
    inner = read(error, "orig")
    origin = inner if isinstance(inner, BaseException) else error
    if (found := _by_mysql(origin)) is not None:  # its states say less than its numbers
        return found
    state = read(origin, "sqlstate") or read(origin, "pgcode")
    if isinstance(state, str) and len(state) == 5:
        return _by_sqlstate(state)
    if str(read(origin, "sqlite_errorname")).startswith(SQLITE_BUSY):
        return Failure(kind="conflict")
    return None


def _by_mysql(error: BaseException) -> Failure | None:
    number = error.args[0] if error.args and _is_of_mysql(error) else None
    if number in MYSQL_CONFLICTS:
        return Failure(kind="conflict")
    return Failure(kind="transient") if number in MYSQL_TRANSIENT else None


def _by_sqlstate(state: str) -> Failure | None:
    if state in CONFLICTS:
        return Failure(kind="conflict")
    if state[:2] in TRANSIENT_CLASSES:
        return Failure(kind="transient")
    return Failure(kind="permanent" if state[:2] == DATA else "unknown")


def _is_of_mysql(error: BaseException) -> bool:
    """Tell whether ``error`` is of one of its drivers, whose errors have no attribute in common."""
    return type(error).__module__.partition(".")[0] in ("pymysql", "asyncmy", "aiomysql", "MySQLdb", "mysql")


def _name(kind: type[object]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _status(carrier: object, *, with_code: bool) -> object:
    for name in ("status_code", "status", "http_status", *(("code",) if with_code else ())):
        if isinstance(status := read(carrier, name), int):
            return status
    return None


def _retry_after(headers: object, now: datetime | None) -> timedelta | None:
    """Return what the header says, in seconds or as a date."""
    value = _header(headers, "retry-after")
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(timedelta(seconds=min(int(value), LONGEST_WAIT.total_seconds())), LONGEST_WAIT)
    until, asked_at = _date(value), _date(_header(headers, "date")) or now
    if until is None or asked_at is None:
        return None
    return min(max(until - asked_at, timedelta(0)), LONGEST_WAIT)


def _header(headers: object, name: str) -> str | None:
    """Return a header, whatever the case of its name."""
    items = read(headers, "items")
    if not callable(items):
        return None
    for key, value in cast("Mapping[Any, Any]", headers).items():
        if str(key).lower() == name and isinstance(value, str):
            return value
    return None


def _date(value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)  # "-0000"
