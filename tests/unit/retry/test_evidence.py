"""What an exception carries tells its kind, whatever its class."""

from __future__ import annotations

import sqlite3
from collections import UserDict
from datetime import UTC, datetime, timedelta
from email.message import Message as Headers
from io import BytesIO
from types import SimpleNamespace
from urllib.error import HTTPError

import asyncpg
import psycopg
import psycopg.errors
import pymysql
import pytest
import redis.exceptions
import sqlalchemy.exc

from pillarbox.errors import ConfigurationError, DependencyDownError, PermanentError
from pillarbox.retry import Classification, Failure, Kind, permanent, transient

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SOON = "Thu, 01 Jan 2026 12:00:30 GMT"


class Response:
    """As httpx and requests have it."""

    def __init__(self, status_code: int, **headers: str) -> None:
        self.status_code = status_code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class StatusError(Exception):
    """An error with a response."""

    def __init__(self, response: object) -> None:
        super().__init__("status")
        self.response = response


class FlatError(Exception):
    """As aiohttp has it: the status is the error's own."""

    def __init__(self, status: int, headers: object = None) -> None:
        super().__init__("status")
        self.status = status
        self.headers = headers


class NoResponseError(Exception):
    """A client whose attribute raises while there was no response."""

    @property
    def response(self) -> object:
        raise RuntimeError("not there")


def classify(error: BaseException) -> Failure:
    return Classification().classify(error, now=NOW)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "permanent"),
        (401, "unknown"),
        (403, "unknown"),
        (404, "permanent"),
        (408, "transient"),
        (409, "permanent"),
        (422, "permanent"),
        (425, "transient"),
        (429, "throttled"),
        (500, "transient"),
        (502, "transient"),
        (503, "transient"),
        (504, "transient"),
        (302, "unknown"),
    ],
)
def test_the_status_of_a_response(status: int, kind: Kind) -> None:
    assert classify(StatusError(Response(status))).kind == kind
    assert classify(FlatError(status)).kind == kind


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "7"}, 7),
        ({"retry_after": SOON}, 30),
        ({"Retry_After": SOON, "Date": "Thu, 01 Jan 2026 12:00:10 GMT"}, 20),
        ({"Retry_After": "Thu, 01 Jan 2026 11:00:00 GMT"}, 0),
        ({"Retry_After": "9" * 30}, 86_400),
        ({"Retry_After": "soon"}, None),
        ({"Retry_After": "-1"}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_seconds_or_as_a_date(status: int, headers: dict[str, str], seconds: int | None) -> None:
    failure = classify(StatusError(Response(status, **headers)))

    assert failure.retry_after == (None if seconds is None else timedelta(seconds=seconds))
    assert failure.kind == ("throttled" if status == 429 or seconds is not None else "transient")


def test_other_statuses_have_no_retry_after() -> None:
    assert classify(StatusError(Response(404, Retry_After="7"))) == Failure(kind="permanent")


def test_urllib_and_botocore_and_a_client_without_a_response() -> None:
    headers = Headers()
    headers["Retry-After"] = "3"
    with HTTPError("https://x", 503, "busy", headers, BytesIO()) as error:
        assert classify(error) == Failure(kind="throttled", retry_after=timedelta(seconds=3))
    facts = {"HTTPStatusCode": 429, "HTTPHeaders": {"retry-after": "4"}}
    assert classify(StatusError({"ResponseMetadata": facts})).retry_after == timedelta(seconds=4)
    assert classify(StatusError({"Error": {}})).kind == "unknown"
    assert classify(NoResponseError()).kind == "unknown"
    assert classify(StatusError(None)).kind == "unknown"


def _sqlalchemy(kind: type[sqlalchemy.exc.DBAPIError], origin: BaseException) -> sqlalchemy.exc.DBAPIError:
    return kind("SELECT 1", {}, origin)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.errors.SerializationFailure(), "conflict"),
        (psycopg.errors.DeadlockDetected(), "conflict"),
        (psycopg.errors.LockNotAvailable(), "conflict"),
        (psycopg.errors.AdminShutdown(), "transient"),
        (psycopg.errors.TooManyConnections(), "transient"),
        (psycopg.errors.QueryCanceled(), "transient"),
        (psycopg.OperationalError("connection refused"), "transient"),
        (psycopg.errors.UniqueViolation(), "unknown"),
        (psycopg.errors.ForeignKeyViolation(), "unknown"),
        (psycopg.errors.NumericValueOutOfRange(), "permanent"),
        (psycopg.errors.UndefinedTable(), "unknown"),
        (asyncpg.exceptions.DeadlockDetectedError("x"), "conflict"),
        (asyncpg.exceptions.UniqueViolationError("x"), "unknown"),
        (asyncpg.exceptions.StringDataRightTruncationError("x"), "permanent"),
        (asyncpg.exceptions.ConnectionDoesNotExistError("x"), "transient"),
        (pymysql.err.OperationalError(1213, "deadlock"), "conflict"),
        (pymysql.err.OperationalError(2006, "gone away"), "transient"),
        (pymysql.err.OperationalError(1054, "unknown column"), "unknown"),
        (pymysql.err.DataError(1406, "too long"), "permanent"),
        (pymysql.err.IntegrityError(1062, "duplicate"), "unknown"),
        (sqlite3.OperationalError("no such table"), "unknown"),
        (redis.exceptions.ConnectionError(), "transient"),
        (sqlalchemy.exc.TimeoutError(), "transient"),
        (_sqlalchemy(sqlalchemy.exc.OperationalError, psycopg.errors.DeadlockDetected()), "conflict"),
        (_sqlalchemy(sqlalchemy.exc.IntegrityError, psycopg.errors.UniqueViolation()), "unknown"),
        (_sqlalchemy(sqlalchemy.exc.DataError, psycopg.errors.NumericValueOutOfRange()), "permanent"),
        (_sqlalchemy(sqlalchemy.exc.DataError, ValueError("no code")), "permanent"),
        (FileNotFoundError(), "unknown"),
        (NameError(), "permanent"),
        (NotImplementedError(), "permanent"),
        (AttributeError(), "unknown"),
        (DependencyDownError("at night"), "transient"),
    ],
    ids=lambda value: type(value).__qualname__ if isinstance(value, BaseException) else str(value),
)
def test_drivers_and_libraries(error: BaseException, kind: Kind) -> None:
    assert classify(error).kind == kind


class MysqlConnectorError(Exception):
    """As mysql-connector has it: the number first, and a state that often says nothing."""

    def __init__(self, number: int, state: str | None) -> None:
        super().__init__(number, f"{number} ({state})", state)
        self.errno, self.sqlstate = number, state


MysqlConnectorError.__module__ = "mysql.connector.errors"


@pytest.mark.parametrize(
    ("number", "state", "kind"),
    [
        (1205, "HY000", "conflict"),
        (1020, "HY000", "conflict"),
        (1213, "40001", "conflict"),
        (1226, "42000", "transient"),
        (2013, None, "transient"),
        (1364, "HY000", "unknown"),
        (1406, "22001", "permanent"),
    ],
)
def test_the_number_of_mysql_counts_before_a_state_that_says_less(number: int, state: str | None, kind: Kind) -> None:
    error = MysqlConnectorError(number, state)

    assert classify(error).kind == kind
    assert classify(_sqlalchemy(sqlalchemy.exc.DatabaseError, error)).kind == kind


class RpcError(Exception):
    """As grpc has it."""


RpcError.__module__ = "grpc"


class CallError(RpcError):
    """As a client raises it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._code = SimpleNamespace(name=name)

    def code(self) -> object:
        return self._code


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", "permanent"),
        ("NOT_FOUND", "permanent"),
        ("ALREADY_EXISTS", "permanent"),
        ("FAILED_PRECONDITION", "permanent"),
        ("OUT_OF_RANGE", "permanent"),
        ("UNIMPLEMENTED", "permanent"),
        ("UNAUTHENTICATED", "unknown"),
        ("PERMISSION_DENIED", "unknown"),
        ("RESOURCE_EXHAUSTED", "throttled"),
        ("ABORTED", "transient"),
        ("UNAVAILABLE", "transient"),
        ("DEADLINE_EXCEEDED", "transient"),
        ("INTERNAL", "transient"),
        ("CANCELLED", "transient"),
        ("UNKNOWN", "transient"),
    ],
)
def test_the_code_of_a_remote_call(code: str, kind: Kind) -> None:
    assert classify(CallError(code)).kind == kind


def test_a_remote_call_without_a_code_is_transient() -> None:
    class OddError(RpcError):
        def code(self) -> object:
            raise KeyError("code")

    class NamelessError(RpcError):
        code = 7

    assert classify(RpcError()).kind == "transient"
    assert classify(OddError()).kind == "transient"
    assert classify(NamelessError()).kind == "transient"


def test_sqlite_that_is_busy_is_a_conflict(tmp_path: object) -> None:
    path = f"{tmp_path}/x.db"
    first, second = sqlite3.connect(path, isolation_level=None), sqlite3.connect(path, timeout=0, isolation_level=None)
    first.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError) as caught:
        second.execute("BEGIN IMMEDIATE")
    first.close()
    second.close()

    assert classify(caught.value).kind == "conflict"


def test_a_connection_that_was_invalidated_is_transient() -> None:
    error = sqlalchemy.exc.OperationalError("SELECT 1", {}, sqlite3.OperationalError("x"), connection_invalidated=True)

    assert classify(error).kind == "transient"


def test_what_the_program_says_counts_before_what_an_error_carries() -> None:
    rules = Classification().saying(permanent(TimeoutError), transient(StatusError))

    assert rules.classify(TimeoutError()).kind == "permanent"
    assert rules.classify(StatusError(Response(404))).kind == "transient"


def test_a_handler_says_it_before_its_box() -> None:
    box = Classification().saying(permanent(OSError))

    assert box.classify(ConnectionResetError()).kind == "permanent"
    assert box.saying(transient(ConnectionError)).classify(ConnectionResetError()).kind == "transient"


def test_what_is_said_of_every_exception_is_said_of_what_is_unknown_only() -> None:
    rules = Classification().saying(permanent(Exception))

    assert rules.classify(ValueError()).kind == "permanent"
    assert rules.classify(ConnectionError()).kind == "transient"
    assert rules.classify(StatusError(Response(503))).kind == "transient"


def test_an_error_of_which_nothing_is_known_is_judged_by_its_cause() -> None:
    error = ValueError("payment failed")
    error.__cause__ = StatusError(Response(503))

    assert classify(error).kind == "transient"
    assert classify(_caused_by_itself()).kind == "unknown"


def _caused_by_itself() -> Exception:
    error = ValueError("a circle")
    error.__cause__ = error
    return error


def test_a_group_is_as_bad_as_the_worst_of_it() -> None:
    group = ExceptionGroup("both", [ConnectionError(), PermanentError("no"), ValueError()])

    assert classify(group).kind == "permanent"
    assert classify(ExceptionGroup("net", [ConnectionError(), ValueError()])).kind == "transient"


@pytest.mark.parametrize("nonsense", [(), (3,), (int,), (ValueError, "x")])
def test_rules_are_about_classes_of_exceptions(nonsense: tuple[object, ...]) -> None:
    with pytest.raises(ConfigurationError, match="classes of exceptions"):
        permanent(*nonsense)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["retry_after", "response", "status_code", "headers", "orig", "sqlstate"])
def test_what_cannot_be_read_says_nothing(name: str) -> None:
    def refuse(_: object) -> object:
        raise KeyError(name)

    error = type("OddError", (TimeoutError,), {name: property(refuse)})("odd")

    assert classify(error) == Failure(kind="transient")


def test_a_status_counts_also_where_its_headers_cannot_be_gone_through() -> None:
    class Untouchable:
        def items(self) -> object:
            raise KeyError("items")

    class OddError(Exception):
        status = 429
        headers = Untouchable()

    assert classify(OddError()) == Failure(kind="throttled")
    assert classify(StatusError(Response(429, Retry_After="9" * 5_000))) == Failure(kind="throttled")


def test_a_response_that_cannot_be_gone_through_says_nothing() -> None:
    class Untouchable(UserDict[str, object]):
        def __getitem__(self, key: str) -> object:
            raise ValueError(key)

    assert classify(StatusError(Untouchable({"ResponseMetadata": {}}))).kind == "unknown"
