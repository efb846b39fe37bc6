"""Consumer groups: how they are made, and what is removed once all have it behind them."""

from __future__ import annotations

from collections.abc import Sequence

from pillarbox.brokers.partitions import Share, two_consumers
from pillarbox.brokers.redis.connection import RedisConnection, is_refusal, refused
from pillarbox.brokers.redis.layout import groups_of, streams_of
from pillarbox.brokers.redis.scripts import TRIM
from pillarbox.channel import Subscription, is_queue
from pillarbox.errors import ConfigurationError

ALL_THAT_IS_THERE, WHAT_COMES_FROM_NOW_ON = "0", "$"


async def declare(connection: RedisConnection, subscription: Subscription, *, anew: bool = False) -> None:
    """Make the groups of ``subscription``, then tell senders of them; those that are there stay as they are.

    A queue's group begins with all that waits in it, a topic's with what comes from now on; ``anew``, after a server
    forgot them, both with all that is there.

    Raises:
        BrokerUnavailableError: the server cannot be reached, or refused.
        ConfigurationError: a queue has another consumer already.
    """
    for channel in subscription.channels:
        if is_queue(channel):
            await _check_alone(connection, channel, subscription.consumer)
        begin = ALL_THAT_IS_THERE if anew or is_queue(channel) else WHAT_COMES_FROM_NOW_ON
        making = [
            ("XGROUP", "CREATE", stream, subscription.consumer, begin, "MKSTREAM") for stream in streams_of(channel)
        ]
        telling = ("SADD", groups_of(channel), subscription.consumer)
        for answer in await connection.execute_all([*making, telling]):
            if is_refusal(answer) and not str(answer).startswith("BUSYGROUP"):
                raise refused(answer) from answer


async def _check_alone(connection: RedisConnection, channel: str, consumer: str) -> None:
    others = {name.decode() for name in await connection.execute("SMEMBERS", groups_of(channel))} - {consumer}
    if others:
        raise ConfigurationError(two_consumers(channel, consumer, *others))


async def trim(connection: RedisConnection, shares: Sequence[Share]) -> None:
    """Remove from the streams of ``shares`` what no group needs any more.

    Raises:
        BrokerUnavailableError: the server cannot be reached; what is not removed now is removed later.
    """
    if shares:
        await connection.call(TRIM, [(2, share.name, groups_of(share.channel)) for share in shares])
