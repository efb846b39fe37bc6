"""What a handler knows of its message, and how it publishes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest
from msgspec.structs import replace

from pillarbox.consumer import Context
from pillarbox.errors import ConfigurationError, InvalidMessageError, MissingKeyError
from pillarbox.message import Cause, Message, command
from tests.messages import message
from tests.unit.consumer.scripted import CONSUMER, StockReserved, stage


@command("payment.charge", queue="payments", key="order_id")
@dataclass(frozen=True)
class ChargePayment:
    """A command."""

    order_id: str


def _context(about: Message, *, consumer: str = CONSUMER, attempt: int = 1) -> Context:
    return Context(about, consumer=consumer, attempt=attempt, outbox=stage().rules.outbox)


def test_the_idempotency_key_is_the_same_at_every_attempt_redelivery_and_replay() -> None:
    first = _context(message("m1"))
    again = _context(replace(message("m1"), headers={"source": "elsewhere", "hop": "3"}), attempt=4)

    assert first.idempotency_key() == again.idempotency_key() == "shop/reserve:m1"


def test_it_differs_by_message_consumer_and_name() -> None:
    keys = {
        _context(message("m1")).idempotency_key(),
        _context(message("m1")).idempotency_key("refund"),
        _context(message("m1")).idempotency_key("charge"),
        _context(message("m2")).idempotency_key(),
        _context(message("m1"), consumer="shop/other").idempotency_key(),
    }

    assert len(keys) == 5


def test_the_envelope_can_be_read() -> None:
    context = _context(
        replace(message("m1", key="o-1"), headers={"correlationid": "c", "causationid": "m0", "mine": "x"}), attempt=3
    )

    assert (context.message_id, context.type, context.key) == ("m1", "order.placed", "o-1")
    assert (context.channel, context.attempt, context.headers["mine"]) == ("topic:order", 3, "x")
    assert (context.correlation_id, context.causation_id) == ("c", "m0")


def test_a_message_without_correlation_starts_its_own() -> None:
    assert _context(message("m1")).correlation_id == "m1"


async def test_publishing_may_be_awaited_and_need_not_be() -> None:
    context = _context(message("m1"))

    context.publish(StockReserved("a"))
    await context.publish(StockReserved("b"))
    context.send(ChargePayment("c"))

    assert [record.message.destination for record in context.records] == ["topic:stock"] * 2 + ["queue:payments"]


def test_what_is_published_takes_key_delay_and_headers() -> None:
    context = _context(message("m1"))
    context.publish(StockReserved("a"), key="z", delay=timedelta(minutes=1), headers={"mine": "x"})

    (record,) = context.records
    assert (record.message.key, record.due_in, record.message.headers["mine"]) == ("z", timedelta(minutes=1), "x")


def test_events_are_published_and_commands_are_sent() -> None:
    context = _context(message("m1"))

    with pytest.raises(ConfigurationError, match=r"use publish\(\)"):
        context.send(StockReserved("a"))
    with pytest.raises(ConfigurationError, match=r"use send\(\)"):
        context.publish(ChargePayment("a"))
    assert context.records == ()


def test_a_missing_key_is_refused_at_once() -> None:
    with pytest.raises(MissingKeyError):
        _context(message("m1")).publish(StockReserved(None))


def test_what_a_handler_publishes_names_the_message_and_what_it_is_told_as_causes() -> None:
    context = _context(message("m1"))
    other = _context(message("m0"))

    noted = context.publish(StockReserved("o-1"), after=[other, Cause("x", "a.b", "topic:a"), other])
    context.send(ChargePayment("o-1"), after=[noted])
    context.note(StockReserved("o-2"))

    own = ("m1", "order.placed", "topic:order")
    first, second, third = (record.message for record in context.records)
    assert first.causes == (own, ("m0", "order.placed", "topic:order"), ("x", "a.b", "topic:a"))
    assert second.causes == (own, (first.id, "stock.reserved", "topic:stock"))
    assert third.causes == (own,)
    assert noted.cause == (first.id, "stock.reserved", "topic:stock")


async def test_what_was_noted_can_be_awaited_for_its_cause() -> None:
    context = _context(message("m1"))

    cause = await context.publish(StockReserved("o-1"))

    assert cause == (context.records[0].message.id, "stock.reserved", "topic:stock")


def test_more_causes_than_the_limit_are_refused_and_each_is_counted_once() -> None:
    many = [Cause(f"c{number}", "a.b", "topic:a") for number in range(31)]
    context = _context(message("m1"))

    context.publish(StockReserved("o-1"), after=[*many, *many])
    with pytest.raises(InvalidMessageError, match="33 causes, at most 32"):
        context.publish(StockReserved("o-1"), after=[*many, Cause("one-more", "a.b", "topic:a")])

    assert len(context.records) == 1


@pytest.mark.parametrize("wrong", ["a b", "", "\ud800"])
def test_a_cause_that_no_message_can_be_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidMessageError):
        _context(message("m1")).publish(StockReserved("o-1"), after=[Cause(wrong, "a.b", "topic:a")])
