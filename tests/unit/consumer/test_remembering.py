"""Business keys read from payloads, and inboxes that must remember for long enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Handlers, InboxSettings, Retry, event
from pillarbox.consumer import Consumer
from pillarbox.consumer.remembering import BusinessKeys, shortest_retention
from pillarbox.consumer.resolve import resolve
from pillarbox.errors import ConfigurationError, InvalidSetupError, MissingBusinessKeyError, RetentionTooShortError
from pillarbox.idempotency.business_key import row_of
from tests.messages import message

DAY = timedelta(days=1)
LONG_RETRY = Retry(attempts=12, immediate=1, first=DAY, factor=1, longest=DAY)


@event("payment.received", key="account")
@dataclass(frozen=True)
class PaymentReceived:
    """A payment."""

    account: str
    payment_id: str | None = "p-1"

    @property
    def reference(self) -> str:
        """Made of both."""
        return f"{self.account}/{self.payment_id}"


@event("payment.refused", key="account")
@dataclass(frozen=True)
class PaymentRefused:
    """It has no id."""

    account: str


async def book(payment: PaymentReceived | PaymentRefused, tx: AsyncConnection) -> None: ...


def _resolve(inbox: InboxSettings, *types: type[object], **options: Any) -> tuple[Consumer, ...]:
    handlers = Handlers()
    handlers.on(*(types or (PaymentReceived,)), **options)(book)  # type: ignore[call-overload]
    return resolve(handlers.declarations, service="bank", provided={}, names_required=False, inbox=inbox)


def _problem(inbox: InboxSettings = InboxSettings(), *types: type[object], **options: Any) -> ConfigurationError:  # noqa: B008
    with pytest.raises(InvalidSetupError) as refused:
        _resolve(inbox, *types, **options)
    (problem,) = refused.value.problems
    return problem


def _row(by: str | Callable[[Any], object], payment: PaymentReceived) -> str:
    return BusinessKeys("bank/book", by, lambda _: payment).row_of(message())


@pytest.mark.parametrize("by", ["payment_id", lambda payment: payment.payment_id])
def test_a_key_is_a_field_or_what_a_function_returns(by: str | Callable[[Any], object]) -> None:
    assert _row(by, PaymentReceived("a", "p-7")) == row_of("order.placed", "p-7")


def test_a_property_is_as_good_as_a_field() -> None:
    assert _resolve(InboxSettings(), dedupe_by="reference")
    assert _row("reference", PaymentReceived("a")) == row_of("order.placed", "a/p-1")


def test_a_key_of_none_is_told_with_the_field_and_the_consumer() -> None:
    with pytest.raises(MissingBusinessKeyError, match=r"'bank/book'.*'payment_id': it is None"):
        _row("payment_id", PaymentReceived("a", None))


def test_a_function_that_raises_finds_no_key() -> None:
    with pytest.raises(MissingBusinessKeyError, match="AttributeError"):
        _row(lambda payment: payment.nothing_like_it, PaymentReceived("a"))


def test_a_field_that_one_of_the_types_lacks_is_refused_at_start() -> None:
    problem = _problem(InboxSettings(), PaymentReceived, PaymentRefused, dedupe_by="payment_id")

    assert "dedupe_by='payment_id' is no field of PaymentRefused; it has: account" in str(problem)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dedupe_by": 7}, "dedupe_by must be a text or a function"),
        ({"dedupe_by": "payment_id", "idempotency": "natural"}, "needs an inbox"),
    ],
)
def test_a_dedupe_by_that_makes_no_sense_is_refused_at_start(options: dict[str, Any], text: str) -> None:
    assert text in str(_problem(**options))


def test_an_inbox_that_forgets_before_a_replay_is_refused_with_the_sum_and_what_to_set() -> None:
    problem = _problem(InboxSettings(keep=20 * DAY), retry=LONG_RETRY)

    assert isinstance(problem, RetentionTooShortError)
    assert (problem.consumer, problem.retries) == ("bank/book", 10 * DAY)
    assert "'bank/book'" in str(problem)
    assert "24 days, 0:00:00 in all; raise keep=" in str(problem)


@pytest.mark.parametrize(
    ("inbox", "options"),
    [
        (InboxSettings(keep=24 * DAY), {"retry": LONG_RETRY}),
        (InboxSettings(keep=None), {"retry": LONG_RETRY}),
        (InboxSettings(keep=DAY), {"retry": LONG_RETRY, "idempotency": "natural"}),
        (InboxSettings(keep=15 * DAY), {}),
    ],
    ids=["just enough", "for ever", "no inbox", "the default retry"],
)
def test_an_inbox_that_remembers_long_enough_is_fine(inbox: InboxSettings, options: dict[str, Any]) -> None:
    assert _resolve(inbox, **options)


def test_a_span_beyond_every_number_is_refused_and_not_computed_to_death() -> None:
    problem = _problem(retry=Retry(attempts=10**12, longest=timedelta(days=10**6), first=timedelta(days=10**6)))

    assert "too long to count in all" in str(problem)


def test_ids_must_be_kept_for_what_the_slowest_consumer_needs() -> None:
    one, other = _resolve(InboxSettings(keep=None), retry=LONG_RETRY), _resolve(InboxSettings())

    assert shortest_retention([*one, *other], InboxSettings()) == 24 * DAY
    assert shortest_retention([], InboxSettings()) == 14 * DAY
