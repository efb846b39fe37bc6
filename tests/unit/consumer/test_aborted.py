"""Errors that say that somebody before has passed over a failure of the database."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError

from pillarbox.consumer.transact import ABORTED, has_found_it_aborted


class DriverError(Exception):
    """As the drivers of PostgreSQL raise it."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


def its_own_cause() -> Exception:
    error = ValueError("a circle")
    error.__cause__ = error
    return error


def caused_by(cause: Exception) -> Exception:
    error = ValueError("the handler's own")
    error.__cause__ = cause
    return error


def in_the_midst_of(other: Exception) -> Exception:
    error = ValueError("the handler's own")
    error.__context__ = other
    return error


FOUND = DBAPIError("SELECT 1", {}, DriverError(ABORTED))
TWICE = IntegrityError("INSERT", {}, DriverError("23505"))


@pytest.mark.parametrize("error", [FOUND, caused_by(FOUND), in_the_midst_of(FOUND)])
def test_it_is_found_also_where_a_handler_raises_another_error_for_it(error: Exception) -> None:
    assert has_found_it_aborted(error)


@pytest.mark.parametrize("error", [TWICE, caused_by(TWICE), ValueError("x"), its_own_cause()])
def test_other_errors_are_the_handler_s_own(error: Exception) -> None:
    assert not has_found_it_aborted(error)
