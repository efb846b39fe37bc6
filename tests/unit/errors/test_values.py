"""What the values of settings may be, and what is said of those that may not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import pytest

import pillarbox
from pillarbox import AlertRules, ByKey, DeadLetterFilter, Retry, Settings
from pillarbox.errors import ConfigurationError
from pillarbox.errors.values import Bounds, check_value
from pillarbox.message import Limits
from pillarbox.relay.log_settings import LogSettings

if TYPE_CHECKING:
    from decimal import Decimal

NOT_SET_BY_USERS = {"Alert", "Cause", "Context", "SagaContext"}
"""Values of the public face that Pillarbox makes."""
NUMBERS_THAT_ARE_NONE: tuple[object, ...] = (math.nan, True, "10", [], object())


def _settings() -> Iterator[type[Any]]:
    yield from (Limits, LogSettings)
    for name in pillarbox.__all__:
        kind = getattr(pillarbox, name)
        if isinstance(kind, type) and is_dataclass(kind) and name not in NOT_SET_BY_USERS:
            yield kind


def _fields() -> Iterator[tuple[type[Any], str]]:
    for kind in _settings():
        yield from ((kind, field.name) for field in fields(kind))


@pytest.mark.parametrize(("kind", "field"), list(_fields()))
def test_every_setting_refuses_what_is_of_no_use_by_class_field_and_value(kind: type[Any], field: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{kind.__name__}\.{field} must be .+, got <object object"):
        kind(**{field: object()})


@pytest.mark.parametrize(("kind", "field"), list(_fields()))
@pytest.mark.parametrize("value", [math.nan, math.inf, -1, timedelta(seconds=-1)])
def test_no_setting_takes_what_is_no_number_or_less_than_nothing(kind: type[Any], field: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"{kind.__name__}\.?"):
        kind(**{field: value})


@pytest.mark.parametrize("value", NUMBERS_THAT_ARE_NONE)
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"Retry\.attempts must be a whole number of at least 1, got "):
        Retry(attempts=value)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class OwnRetry(Retry):
    """A program's own, with a field whose type only type checkers know."""

    budget: Decimal | None = None


def test_a_subclass_may_have_fields_of_types_that_are_not_known_at_run_time() -> None:
    assert OwnRetry(attempts=2, budget=None).attempts == 2
    with pytest.raises(ConfigurationError, match=r"OwnRetry\.attempts must be a whole number of at least 1, got 0"):
        OwnRetry(attempts=0)


def test_what_none_means_is_said() -> None:
    with pytest.raises(ConfigurationError, match="a whole number of at least 1, or None to set no bound, got 0"):
        Settings(max_held=0)


@pytest.mark.parametrize("age", ["oldest_pending", "oldest_queued", "oldest_held", "regression_after"])
def test_an_age_below_zero_is_refused(age: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"AlertRules\.{age} must be a timedelta of at least zero, or None"):
        AlertRules(**{age: timedelta(seconds=-1)})  # type: ignore[arg-type]


def test_a_time_without_a_zone_filters_nothing() -> None:
    with pytest.raises(ConfigurationError, match=r"DeadLetterFilter\.since must be an instant with a time zone"):
        DeadLetterFilter(since=datetime(2031, 5, 17))  # noqa: DTZ001  # this is what is refused


def test_a_state_may_be_said_by_its_word() -> None:
    assert DeadLetterFilter(state="dead").state == "dead"  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="'dead' or 'replaying' or 'resolved' or 'discarded', or None"):
        DeadLetterFilter(state="deda")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (float, 2),
        (str | None, None),
        (Literal["a", "b"], "b"),
        (Mapping[str, str], {}),
        (Sequence[type[object]], [int]),
        (ByKey, ByKey()),
        (Any, object()),
    ],
)
def test_what_is_as_annotated_is_taken(hint: object, value: object) -> None:
    check_value(value, hint, name="it")


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        (Bounds(above=0), "a number above 0"),
        (Bounds(least=1, most=3), "a number of at least 1 and at most 3"),
        (Bounds(most=3), "a number of at most 3"),
    ],
)
def test_bounds_are_said(bounds: Bounds, says: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^it must be {says}, got 'x'$"):
        check_value("x", float, name="it", bounds=bounds)


@dataclass(frozen=True)
class Opaque:
    """Its text is a secret."""

    secret: str


def test_what_may_hold_a_password_is_shown_as_told() -> None:
    with pytest.raises(ConfigurationError, match=r"^it must be a text, got an Opaque$"):
        check_value(Opaque("hush"), str, name="it", shown="an Opaque")
