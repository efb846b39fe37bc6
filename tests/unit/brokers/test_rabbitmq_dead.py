"""Where the server moves what it will not deliver, and how that is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from pamqp import commands

from pillarbox.brokers.partitions import PARTITIONS, Shares, hand_out
from pillarbox.brokers.rabbitmq.envelope import read_death, unpack
from pillarbox.brokers.rabbitmq.layout import ARGUMENTS, declarations, mark, queue_of
from pillarbox.brokers.rabbitmq.share import QueueShare
from pillarbox.channel import Subscription
from pillarbox.channel.delivery import PutAside
from pillarbox.errors import ConfigurationError
from pillarbox.serialization import UNREADABLE
from tests.messages import message
from tests.unit.brokers.test_rabbitmq_books import StandInChannel
from tests.unit.brokers.test_rabbitmq_bytes import packed_by_pamqp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillarbox.brokers.rabbitmq.channel import Channel
    from pillarbox.lease import LeaseKeeper

PARTITION, DEAD = "topic:order/shop/reserve/3", "topic:order/shop/reserve/dead"
DEATH = {"count": 1, "reason": "expired", "queue": PARTITION, "exchange": "topic:order", "routing-keys": ["3"]}
FACTS = {"x-first-death-reason": "expired", "x-first-death-queue": PARTITION, "x-first-death-exchange": "topic:order"}
SINCE_4 = {name.replace("first", "last"): fact for name, fact in FACTS.items()}


class TestPlaces:
    @pytest.mark.parametrize(
        ("channel", "place"), [("topic:order", "topic:order/shop/reserve"), ("queue:payments", "queue:payments")]
    )
    def test_no_policy_says_where_the_dead_letters_of_a_partition_go(self, channel: str, place: str) -> None:
        """A queue's own arguments are stronger than any policy."""
        declared = {one.queue: one.arguments for one in declared_by(channel, "shop/reserve")}
        bound = {one.queue: one.routing_key for one in bound_by(channel, "shop/reserve")}

        goes_to = {"x-dead-letter-exchange": channel, "x-dead-letter-strategy": "at-least-once", **ARGUMENTS}
        for partition in range(PARTITIONS):
            queue = queue_of(channel, "shop/reserve", partition)
            assert declared[queue] == {**goes_to, "x-dead-letter-routing-key": f"{place}/dead"}
            assert bound[queue] == str(partition)
        assert bound[f"{place}/dead"] == f"{place}/dead"
        assert len(declared) == PARTITIONS + 1

    def test_what_is_removed_from_a_dead_queue_is_sent_where_nothing_is_bound(self) -> None:
        """So the server has to keep it."""
        (dead,) = [one for one in declared_by("topic:order", "shop/reserve") if one.queue == DEAD]

        keeps = {"x-dead-letter-exchange": "topic:order", "x-dead-letter-strategy": "at-least-once"}
        assert dead.arguments.items() >= keeps.items()
        key = dead.arguments["x-dead-letter-routing-key"]
        assert key not in {one.routing_key for one in bound_by("topic:order", "shop/reserve")}

    def test_nothing_asks_for_the_right_to_write_to_every_queue(self) -> None:
        """The default exchange has every queue bound to it."""
        queues: list[Any] = [*declared_by("queue:payments", "shop/charge"), mark("queue:payments", "shop/charge")]

        assert {one.arguments["x-dead-letter-exchange"] for one in queues} == {"queue:payments"}

    def test_a_name_too_long_for_the_dead_queue_is_refused(self) -> None:
        channel, longest = "topic:order", 255 - len("topic:order//dead")
        assert [*declarations(channel, "c" * longest)]

        with pytest.raises(ConfigurationError, match="/dead' would have a name of more than 255 bytes"):
            list(declarations(channel, "c" * (longest + 1)))


def declared_by(channel: str, consumer: str) -> Sequence[Any]:
    return [one for one in declarations(channel, consumer) if isinstance(one, commands.Queue.Declare)]


def bound_by(channel: str, consumer: str) -> Sequence[Any]:
    return [one for one in declarations(channel, consumer) if isinstance(one, commands.Queue.Bind)]


def dead_lettered(headers: Mapping[str, Any], body: bytes = b"{}") -> bytes:
    return packed_by_pamqp(commands.Basic.Properties(content_type="application/json", headers=dict(headers)), body)


class TestReading:
    def test_what_was_put_aside_is_the_message_that_was_sent(self) -> None:
        sent = message("m1")
        headers = {"cloudEvents:specversion": "1.0", "cloudEvents:id": "m1", "cloudEvents:source": "shop",
                   "cloudEvents:type": "order.placed", "cloudEvents:subject": "k"}  # fmt: skip
        packed = dead_lettered({**headers, "x-death": [DEATH], **FACTS, **SINCE_4, "x-delivery-count": 2})

        came = unpack(packed, sent.body, channel="topic:order", queue=PARTITION, was_put_aside=True)

        assert came == sent
        assert read_death(packed, queue=DEAD) == PutAside(reason="expired", place=PARTITION)

    def test_what_cannot_be_read_is_known_by_the_same_name_before_and_after(self) -> None:
        """So one that was delivered as well is one dead letter."""
        before = unpack(dead_lettered({"who": "knows"}), b"{}", channel="topic:order", queue=PARTITION)
        packed = dead_lettered({"who": "knows", "x-death": [DEATH], **FACTS})

        after = unpack(packed, b"{}", channel="topic:order", queue=PARTITION, was_put_aside=True)

        assert after == before
        assert after.type == UNREADABLE

    def test_headers_of_a_death_elsewhere_stay_on_what_was_delivered(self) -> None:
        packed = dead_lettered({"x-first-death-queue": "theirs", "who": "knows"})

        came = unpack(packed, b"{}", channel="topic:order", queue=PARTITION)

        assert came.headers["x-first-death-queue"] == "theirs"

    @pytest.mark.parametrize("reason", ["delivery_limit", "expired", "maxlen", "rejected"])
    def test_the_reason_is_the_servers_word(self, reason: str) -> None:
        packed = dead_lettered({"x-death": [{**DEATH, "reason": reason}]})

        assert read_death(packed, queue=DEAD).reason == reason

    def test_the_latest_death_in_a_partition_counts(self) -> None:
        """What was brought back by hand may have died before, and may have gone through the dead queue."""
        deaths = [{**DEATH, "queue": DEAD}, {**DEATH, "reason": "delivery_limit"}, {**DEATH, "queue": "theirs"}]

        assert read_death(dead_lettered({"x-death": deaths}), queue=DEAD) == PutAside(
            reason="delivery_limit", place=PARTITION
        )

    @pytest.mark.parametrize(
        "told",
        [
            None,
            "text",
            [],
            ["text", 7],
            [{"reason": "expired"}],
            [{**DEATH, "queue": "theirs/3"}],
            [{**DEATH, "queue": f"{PARTITION}\0"}],
        ],
    )
    def test_what_others_say_of_a_death_is_not_believed(self, told: object) -> None:
        packed = dead_lettered({"x-death": told})

        assert read_death(packed, queue=DEAD) == PutAside(reason="put-aside", place=DEAD)

    def test_a_reason_that_the_server_does_not_know_is_none(self) -> None:
        packed = dead_lettered({"x-death": [{**DEATH, "reason": ["expired"]}]})

        assert read_death(packed, queue=DEAD) == PutAside(reason="put-aside", place=PARTITION)

    @pytest.mark.parametrize(
        "packed", [b"short", b"\x00\x3c\x00\x00" + b"\x00" * 8 + b"\x20\x00\x00\x00\x00\x05\x01aZ12"]
    )
    def test_what_has_no_headers_that_can_be_read_is_put_aside_all_the_same(self, packed: bytes) -> None:
        assert read_death(packed, queue=DEAD) == PutAside(reason="put-aside", place=DEAD)


class Keeper:
    """Leases of one owner, as shares see them."""

    def __init__(self, *partitions: int) -> None:
        self.tokens = dict.fromkeys(partitions, 1)
        self.surplus: tuple[int, ...] = ()
        self.returned: set[int] = set()

    async def keep(self) -> None:
        """Hold what it holds."""

    async def give_back(self, slots: set[int]) -> None:
        self.returned |= slots


class TestSharing:
    @pytest.mark.parametrize(("partitions", "reads"), [((0, 5), True), ((5, 6), False)])
    async def test_whoever_leases_a_partition_reads_what_is_beside_it(
        self, partitions: tuple[int, ...], reads: bool
    ) -> None:
        mine = await shares_with(Keeper(*partitions)).keep()

        assert (DEAD in {one.name for one in mine}) is reads
        assert len(mine) == len(partitions) + reads

    async def test_a_lease_is_kept_while_what_is_beside_its_partition_is_out(self) -> None:
        keeper = Keeper(0, 5)
        shares = shares_with(keeper)
        dead = shares[DEAD]
        dead.read_by(cast("Channel", StandInChannel()), token=1)
        dead.arrived(1, 1, message("m1"), PutAside(reason="expired", place=PARTITION))
        (out,) = hand_out(await shares.keep(), 10)
        keeper.surplus = (0,)

        await shares.keep()
        before = set(keeper.returned)
        dead.accept([cast("Any", out.receipt)])
        await shares.keep()

        assert (before, keeper.returned) == (set(), {0})

    def test_what_was_put_aside_is_handed_out_as_such(self) -> None:
        share = QueueShare(DEAD, "topic:order", 0, is_dead=True)
        share.read_by(cast("Channel", StandInChannel()), token=1)
        put_aside = PutAside(reason="expired", place=PARTITION)
        share.arrived(1, 1, message("m1"), put_aside)
        share.arrived(2, 2, message("m2"))

        assert [one.put_aside for one in hand_out([share], 2)] == [put_aside, None]


def shares_with(keeper: Keeper) -> Shares[QueueShare]:
    return Shares(
        Subscription(consumer="shop/reserve", channels=("topic:order",)),
        cast("LeaseKeeper", keeper),
        make=lambda channel, partition: QueueShare(queue_of(channel, "shop/reserve", partition), channel, partition),
        beside=[QueueShare(DEAD, "topic:order", 0, is_dead=True)],
    )
