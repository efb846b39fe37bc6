"""What kind of failure an exception is."""

import asyncio
from datetime import timedelta

import pytest

from pillarbox.errors import (
    BrokerUnavailableError,
    ConflictError,
    DecodeError,
    InvalidReturnError,
    LeaseLostError,
    PermanentError,
    StoreUnavailableError,
    ThrottledError,
    TransientError,
)
from pillarbox.retry import Classification, Failure


class OutOfStockError(ValueError):
    """An error of the user's."""


class WrongWarehouseError(OutOfStockError):
    """A special case of it."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TransientError("x"), "transient"),
        (BrokerUnavailableError(broker="b", reason="r"), "transient"),
        (StoreUnavailableError(store="s", reason="r"), "transient"),
        (TimeoutError(), "transient"),
        (ConnectionResetError(), "transient"),
        (OSError(), "transient"),
        (PermanentError("x"), "permanent"),
        (DecodeError(reason="x"), "permanent"),
        (InvalidReturnError(consumer="c", returned="int"), "permanent"),
        (ConflictError("x"), "conflict"),
        (LeaseLostError(lease="l", token=1), "conflict"),
        (ValueError("x"), "unknown"),
        (OutOfStockError("x"), "unknown"),
        (asyncio.CancelledError(), "unknown"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_the_kind_of(error: BaseException, kind: str) -> None:
    assert Classification().classify(error).kind == kind


def test_the_rule_of_the_nearest_class_counts() -> None:
    rules = Classification().with_rules("permanent", OutOfStockError).with_rules("transient", WrongWarehouseError)

    assert rules.classify(OutOfStockError()).kind == "permanent"
    assert rules.classify(WrongWarehouseError()).kind == "transient"


def test_rules_are_added_to_a_copy() -> None:
    before = Classification()
    before.with_rules("permanent", ValueError)

    assert before.classify(ValueError()).kind == "unknown"


def test_an_error_that_says_when_to_come_back_is_throttled() -> None:
    error = ThrottledError("slow down", retry_after=timedelta(seconds=7))

    assert Classification().classify(error) == Failure(kind="throttled", retry_after=timedelta(seconds=7))


def test_who_asks_to_be_left_alone_for_ever_is_asked_again_in_ten_years() -> None:
    """A due time that no database keeps would have the message come again at once, and again."""
    error = ThrottledError("go away", retry_after=timedelta.max)

    assert Classification().classify(error).retry_after == timedelta(days=3650)


@pytest.mark.parametrize("nonsense", [timedelta(seconds=-1), 5, "5", None])
def test_a_retry_after_that_is_no_time_is_ignored(nonsense: object) -> None:
    error = OutOfStockError()
    error.retry_after = nonsense  # type: ignore[attr-defined]

    assert Classification().classify(error) == Failure(kind="unknown")
