"""What a broker's adapter supplies to be tested, and small things that the suites of both ends share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

import pytest

from pillarbox.channel import Broker, Delivery, MessageReceiver, Outcome, Subscription
from pillarbox.message import Message
from pillarbox.testing.waiting import PATIENCE
from pillarbox.transaction import Program, TransactionSource

A_WHILE = timedelta(milliseconds=50)
ROUNDS_OF_SILENCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerHarness:
    """A broker that is open; whoever supplies it closes it again.

    Attributes:
        broker: the broker under test.
        again: makes one more broker object for the same server, not opened, as a process started later would.
        source: where the transactions begin that messages can be accepted in; ``None`` if it declares none.
        let_time_pass: lets pass what competing instances need to notice each other, where time is virtual.
    """

    broker: Broker
    again: Callable[[], Broker]
    source: TransactionSource | None = None
    let_time_pass: Callable[[], None] = lambda: None


def new_topic() -> str:
    """Return the address of a topic that no other test uses."""
    return f"topic:t-{uuid4().hex[:12]}"


def new_queue() -> str:
    """Return the address of a queue that no other test uses."""
    return f"queue:q-{uuid4().hex[:12]}"


def new_subscription(*channels: str) -> Subscription:
    """Return a subscription of a consumer that no other test uses."""
    return Subscription(consumer=f"shop/c-{uuid4().hex[:12]}", channels=channels)


def letter(identity: str, destination: str, *, key: str | None = "k", body: bytes = b"{}") -> Message:
    """Return a small message."""
    return Message(
        id=f"{identity}-{uuid4().hex[:8]}",
        type="order.placed",
        destination=destination,
        key=key,
        content_type="application/json",
        headers={"source": "shop"},
        body=body,
    )


@asynccontextmanager
async def listening(
    harness: BrokerHarness, subscription: Subscription, *, broker: Broker | None = None
) -> AsyncGenerator[MessageReceiver]:
    """Declare ``subscription`` and receive for it in the name of a new instance."""
    at = broker or harness.broker
    await at.declare([subscription])
    receiver = at.receiver(subscription, owner=f"instance-{uuid4().hex}")
    try:
        yield receiver
    finally:
        await receiver.close()


async def receive(receiver: MessageReceiver, count: int) -> list[Delivery]:
    """Receive until there are ``count`` deliveries.

    Raises:
        AssertionError: there are fewer, or more.
    """
    deliveries: list[Delivery] = []
    try:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while len(deliveries) < count:
                deliveries += await receiver.receive(count - len(deliveries), within=A_WHILE)
    except TimeoutError:
        raise AssertionError(f"{count} deliveries were expected, there are {_ids(deliveries)}") from None
    assert len(deliveries) == count, _ids(deliveries)
    return deliveries


async def assert_silent(*receivers: MessageReceiver) -> None:
    """Make sure that none of ``receivers`` is handed anything for a while."""
    for _ in range(ROUNDS_OF_SILENCE):
        for receiver in receivers:
            assert list(await receiver.receive(100, within=A_WHILE)) == []


async def accept(harness: BrokerHarness, receiver: MessageReceiver, deliveries: Sequence[Delivery]) -> None:
    """Accept ``deliveries`` as a consumer does: within a transaction where the broker can, then by settling."""
    if harness.broker.capabilities.transactional:
        assert harness.source is not None, "a transactional broker needs the harness to say where transactions begin"
        await harness.source.run(accept_within(receiver, deliveries))
    await receiver.settle(deliveries, Outcome.ACCEPTED)


def accept_within(receiver: MessageReceiver, deliveries: Sequence[Delivery]) -> Program[None]:
    """Accept in the transaction that runs this program."""
    accepting: Callable[[Sequence[Delivery]], Program[None]] | None = getattr(receiver, "accept_within", None)
    assert accepting is not None, f"{type(receiver).__name__} is declared transactional and has no accept_within"
    return accepting(deliveries)


def needs(capability: bool, what: str, /) -> None:  # noqa: FBT001  # reads as an assertion
    """Skip a rule about what the broker does not declare."""
    if not capability:
        pytest.skip(f"the broker does not declare {what}")


def _ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.message.id for delivery in deliveries]
