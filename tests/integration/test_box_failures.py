"""What follows a failure: retries in order, dead letters, replay, and what a dead message blocks."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Context, Pillarbox, Retry, Settings, Unordered, permanent, transient
from pillarbox.deadletter import DeadLetterFilter, DeadLetterState
from pillarbox.errors import ConflictError, NotFoundError, PermanentError
from pillarbox.observe import AttemptFailed, MessageDead, MessageHandled, MessageHeld
from pillarbox.retry import Classification
from pillarbox.testing import Harness
from tests.integration.boxes import OrderPlaced, create_tables, make_box, note, noted, publish
from tests.messages import message
from tests.waiting import wait_until

ONCE = Retry(attempts=1)
SOON = Retry(attempts=4, immediate=1, first=timedelta(milliseconds=60), factor=1)


class Mood:
    """Whether a handler fails."""

    bad = True


@pytest.mark.parametrize("writes_first", [False, True])
async def test_attempts_are_counted_and_later_messages_of_the_key_wait(store_url: str, writes_first: bool) -> None:
    box, happenings = make_box(store_url)
    attempts: list[int] = []

    @box.on(OrderPlaced, name="handle", retry=SOON)
    async def handle(order: OrderPlaced, tx: AsyncConnection, ctx: Context) -> None:
        if writes_first:
            await note(tx, f"{order.order_id} {order.number}")
        if (order.order_id, order.number) == ("a", 0):
            attempts.append(ctx.attempt)
            if ctx.attempt < 4:
                raise ConnectionError("not yet")
        if not writes_first:
            await note(tx, f"{order.order_id} {order.number}")

    async with box.running():
        await create_tables(box)
        await publish(box, *(OrderPlaced(key, number) for number in range(3) for key in "ab"))
        await happenings.until(MessageHandled, 6)

        came = await noted(box)
        assert attempts == [1, 2, 3, 4]
        assert [one for one in came if one.startswith("a")] == ["a 0", "a 1", "a 2"]
        assert [one for one in came if one.startswith("b")] == ["b 0", "b 1", "b 2"]
        failed = happenings.of(AttemptFailed)
        assert [one.attempt for one in failed if one.retry_after is not None] == [2, 3]


async def test_a_dead_message_holds_its_key_until_it_is_replayed_then_the_others_run_in_order(store_url: str) -> None:
    box, happenings = make_box(store_url)
    mood = Mood()

    @box.on(OrderPlaced, name="handle", retry=ONCE)
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        if order.number == 0 and mood.bad:
            raise ValueError("not in this mood")
        await note(tx, f"{order.order_id} {order.number}")

    async with box.running():
        await create_tables(box)
        await publish(box, *(OrderPlaced("a", number) for number in range(4)), OrderPlaced("b", 1))
        await happenings.until(MessageDead)
        await happenings.until(MessageHandled)
        await happenings.until(MessageHeld, 3)
        assert await noted(box) == ["b 1"]

        (letter,) = await box.dead_letters.list()
        assert (letter.consumer, letter.attempts, letter.reason) == ("shop/handle", 1, "exhausted")
        mood.bad = False
        await box.dead_letters.replay(letter.id, by="me")
        await happenings.until(MessageHandled, 5)

        assert await noted(box) == ["b 1", "a 0", "a 1", "a 2", "a 3"]
        assert (await box.dead_letters.get(letter.id)).state is DeadLetterState.RESOLVED
        await wait_until(lambda: _is_empty(box), what="no hold is left")
        await publish(box, OrderPlaced("a", 4))
        await happenings.until(MessageHandled, 6)
        assert (await noted(box))[-1] == "a 4"


async def test_a_replay_that_fails_is_dead_again_and_counts_on(store_url: str) -> None:
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="handle", retry=Retry(attempts=2, immediate=1))
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        raise ValueError("never")

    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("a"))
        await happenings.until(MessageDead)
        (letter,) = await box.dead_letters.list()
        await box.dead_letters.replay(letter.id, by="me")
        await happenings.until(MessageDead, 2)

        (again,) = await box.dead_letters.list()
        assert (again.id, again.attempts, again.replays, len(again.history)) == (letter.id, 4, 1, 4)


async def test_only_what_is_dead_can_be_replayed(store_url: str) -> None:
    box, happenings = make_box(store_url)
    mood = Mood()

    @box.on(OrderPlaced, name="handle", retry=ONCE)
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        if mood.bad:
            raise ValueError("not in this mood")

    async with box.running():
        await publish(box, OrderPlaced("a"))
        await happenings.until(MessageDead)
        (letter,) = await box.dead_letters.list()
        mood.bad = False
        await box.dead_letters.replay(letter.id, by="me")
        await happenings.until(MessageHandled)

        with pytest.raises(ConflictError):
            await box.dead_letters.replay(letter.id, by="me")
        with pytest.raises(NotFoundError):
            await box.dead_letters.replay(letter.id + 1000, by="me")
        with pytest.raises(ValueError, match="by="):
            await box.dead_letters.replay(letter.id, by="")


@pytest.mark.parametrize("broker", ["database://", "memory://"])
async def test_where_the_dead_are_skipped_others_pass_and_a_late_duplicate_does_not_run(
    store_url: str, broker: str
) -> None:
    box, happenings = make_box(store_url, broker=broker)
    invoked: list[str] = []

    @box.on(OrderPlaced, name="handle", retry=ONCE, when_dead="skip")
    async def handle(order: OrderPlaced, tx: AsyncConnection, ctx: Context) -> None:
        invoked.append(ctx.message_id)
        if ctx.message_id == "poison":
            raise ValueError("poison")

    async with box.running():
        poison = message("poison", key="k")
        await box.broker.sender().send([poison, message("m2", key="k")])
        await happenings.until(MessageDead)
        await happenings.until(MessageHandled)
        await box.broker.sender().send([poison, message("m3", key="k")])
        await happenings.until(MessageHandled, 2)
        await happenings.until(MessageHeld)

    assert invoked == ["poison", "m2", "m3"]


async def test_without_order_nothing_waits_for_a_retry(store_url: str) -> None:
    box, happenings = make_box(store_url)
    mood = Mood()

    @box.on(OrderPlaced, name="handle", retry=Retry(attempts=100, immediate=0, first=SOON.first), ordering=Unordered())
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        if order.number == 0 and mood.bad:
            raise ConnectionError("not yet")
        await note(tx, f"{order.number}")

    async with box.running():
        await create_tables(box)
        await publish(box, *(OrderPlaced("a", number) for number in range(4)))
        await happenings.until(MessageHandled, 3)
        assert sorted(await noted(box)) == ["1", "2", "3"]
        mood.bad = False
        await happenings.until(MessageHandled, 4)

        assert (await noted(box))[-1] == "0"


async def test_what_cannot_be_decoded_is_dead_with_its_very_bytes(store_url: str) -> None:
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None: ...

    async with box.running():
        garbage = structs.replace(message("m1"), body=bytes(range(256)))
        await box.broker.sender().send([garbage])
        (dead,) = await happenings.until(MessageDead)

        (letter,) = await box.dead_letters.list()
        assert (dead.reason, dead.attempts) == ("undecodable", 0)
        assert letter.message == garbage


@pytest.mark.parametrize("text", ["a NUL \0 in it", "half a surrogate \ud800", "'; DROP TABLE x; --", "x" * 100_000])
async def test_an_error_of_any_text_is_buried(store_url: str, text: str) -> None:
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        raise PermanentError(text)

    async with box.running():
        await publish(box, OrderPlaced("a"))
        await happenings.until(MessageDead)

        (letter,) = await box.dead_letters.list()
        assert letter.error[:5] == text[:5]
        assert letter.stack


async def test_outside_handlers_are_retried_buried_and_replayed_too(store_url: str) -> None:
    box, happenings = make_box(store_url)
    mood = Mood()
    attempts: list[tuple[str, int]] = []

    @box.on(OrderPlaced, name="call", retry=Retry(attempts=3, immediate=1, first=timedelta(milliseconds=20)))
    async def call(order: OrderPlaced, ctx: Context) -> None:
        attempts.append((f"{order.order_id} {order.number}", ctx.attempt))
        if order.number == 0 and mood.bad:
            raise ConnectionError("not yet")

    async with box.running():
        await publish(box, OrderPlaced("a", 0), OrderPlaced("a", 1))
        await happenings.until(MessageDead)
        assert attempts == [("a 0", 1), ("a 0", 2), ("a 0", 3)]
        mood.bad = False
        (letter,) = await box.dead_letters.list()
        await box.dead_letters.replay(letter.id, by="me")
        await happenings.until(MessageHandled, 2)

    assert attempts[3:] == [("a 0", 1), ("a 1", 1)]


async def test_dead_letters_are_found_by_what_they_are(store_url: str) -> None:
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="one", retry=ONCE)
    async def one(order: OrderPlaced, tx: AsyncConnection) -> None:
        raise ValueError(f"order {order.number} has no stock")

    @box.on(OrderPlaced, name="two", retry=ONCE)
    async def two(order: OrderPlaced, tx: AsyncConnection) -> None:
        raise KeyError(order.number)

    async with box.running():
        await publish(box, *(OrderPlaced(f"o-{number}", number) for number in range(3)))
        await happenings.until(MessageDead, 6)
        letters = await box.dead_letters.list(DeadLetterFilter(consumer="shop/one"))

        assert len(letters) == 3
        assert len({letter.fingerprint for letter in letters}) == 1
        assert await box.dead_letters.count(DeadLetterFilter(group=letters[0].fingerprint)) == 3
        assert await box.dead_letters.count(DeadLetterFilter(key="o-1")) == 2
        assert await box.dead_letters.count(DeadLetterFilter(type="stock.reserved")) == 0


async def _is_empty(box: Pillarbox) -> bool:
    state = await box.store.run(box.store.holding.state())
    return (state.keys, state.messages) == (0, 0)


async def test_what_the_box_says_of_an_exception_counts_and_what_a_handler_says_counts_before_it() -> None:
    settings = Settings(classification=Classification().saying(permanent(LookupError)))
    box, twice = Pillarbox("shop", store="memory://", settings=settings), Retry(attempts=2)

    @box.on(OrderPlaced, name="as-the-box", retry=twice)
    async def as_the_box(order: OrderPlaced) -> None:
        raise KeyError(order.order_id)

    @box.on(OrderPlaced, name="otherwise", retry=twice, failures=[transient(LookupError, NotImplementedError)])
    async def otherwise(order: OrderPlaced) -> None:
        raise KeyError(order.order_id) if order.number else NotImplementedError

    async with Harness(box) as harness:
        for number in (0, 1):
            await harness.publish(OrderPlaced(f"o-{number}", number))
        await harness.until_quiet()

        letters = sorted((one.consumer, one.reason, one.attempts) for one in harness.dead_letters)
        assert letters == [
            ("shop/as-the-box", "permanent", 1),
            ("shop/as-the-box", "permanent", 1),
            ("shop/otherwise", "exhausted", 2),
            ("shop/otherwise", "exhausted", 2),
        ]
