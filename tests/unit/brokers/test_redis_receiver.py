"""What an instance makes of what is pending while its own messages come back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from pillarbox.app.system_clock import SystemClock
from pillarbox.brokers.partitions import receipt_of
from pillarbox.brokers.redis.receiver import RedisReceiver
from pillarbox.channel import Delivery, Outcome, Subscription
from pillarbox.lease import LeaseTerms

if TYPE_CHECKING:
    from pillarbox.brokers.redis.connection import RedisConnection
    from pillarbox.lease import LeaseKeeper

NOW = timedelta(0)


class OneLease:
    """The lease of one partition, which is lost and had again."""

    clock = SystemClock()
    terms = LeaseTerms(scope="redis/shop/c", slots=1, ttl=timedelta(minutes=1))
    surplus: Sequence[int] = ()
    due_in = timedelta(seconds=20)

    def __init__(self) -> None:
        self.tokens = {0: 1}

    async def keep(self) -> None:
        """Have it."""

    async def give_back(self, slots: object) -> None:
        """Give back nothing."""


class Pending:
    """A server with three entries that were delivered and not acknowledged, and none behind them."""

    def __init__(self) -> None:
        self.while_pending_is_read: Any = None

    async def execute_all(self, commands: Sequence[Sequence[object]]) -> Sequence[Any]:
        return [[3, b"1-0", b"3-0", []] for _ in commands]

    async def execute(self, *command: object) -> Any:
        name, after = str(command[command.index("STREAMS") + 1]).encode(), command[-1]
        if after != "0":
            return None
        if self.while_pending_is_read is not None:
            await self.while_pending_is_read()
        return [(name, [(b"%d-0" % number, [b"body", b"{}"]) for number in (1, 2, 3)])]


async def test_what_comes_back_while_what_is_pending_is_read_is_handed_out_once() -> None:
    """A breaker opens, and all that waited for its dependency is given back, as a partition is read once more."""
    server = Pending()
    subscription = Subscription(consumer="shop/c", channels=("topic:order",))
    receiver = RedisReceiver(
        subscription, connection=cast("RedisConnection", server), keeper=cast("LeaseKeeper", OneLease())
    )
    first = await receiver.receive(10, within=NOW)
    receiver._read_all_again()  # an acknowledgement of another message had no answer

    async def give_back() -> None:
        await receiver.settle(first, Outcome.RETURNED)

    server.while_pending_is_read = give_back
    second: list[Delivery] = []
    for _ in range(3):
        second += await receiver.receive(10, within=NOW)

    assert [receipt_of(one).order for one in second] == [(1, 0), (2, 0), (3, 0)]


async def test_what_was_lost_with_its_lease_and_comes_once_more_is_handled_in_the_second_copy() -> None:
    lease = OneLease()
    receiver = RedisReceiver(
        Subscription(consumer="shop/c", channels=("topic:order",)),
        connection=cast("RedisConnection", Pending()),
        keeper=cast("LeaseKeeper", lease),
    )
    first = await receiver.receive(10, within=NOW)
    assert list(receiver.still_ours(first)) == list(first)

    lease.tokens = {0: 2}  # somebody else had it, and stopped
    second = await receiver.receive(10, within=NOW)

    assert receiver.still_ours(first) == []
    assert receiver.still_ours(second) == list(second) != []
