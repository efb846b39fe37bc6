"""What operators do about dead letters and held keys, in boxes at work."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import DeadLetterFilter, Pillarbox, Retry
from pillarbox.deadletter import DeadLetterState, ReplayRun, RunState
from pillarbox.deadletter.runs import MAX_REPLAYS, ItemState
from pillarbox.errors import ConflictError, DecodeError, NotFoundError, ReplayedTooOftenError
from pillarbox.observe import DuplicateSuppressed, MessageDead, MessageHandled, MessageHeld
from tests.integration.boxes import OrderPlaced, create_tables, make_box, note, noted, publish
from tests.messages import message
from tests.waiting import wait_until

pytestmark = pytest.mark.parametrize(
    "store_url",
    [
        "sqlite",
        pytest.param("postgresql+psycopg", marks=pytest.mark.server),
        pytest.param("mariadb+asyncmy", marks=pytest.mark.server),
    ],
    indirect=True,
)
ONCE = Retry(attempts=1)
SOON = Retry(attempts=3, immediate=1, first=timedelta(milliseconds=20), factor=1)
IN_AN_HOUR = Retry(attempts=2, immediate=0, first=timedelta(days=9), longest=timedelta(days=9), factor=1)
DEAD = DeadLetterFilter()


class Mood:
    """Which numbers a handler fails on."""

    def __init__(self, *bad: int) -> None:
        self.bad = set(bad)


def declare(box: Pillarbox, mood: Mood, *, name: str = "handle", retry: Retry = ONCE) -> list[int]:
    """Declare a consumer that writes what it handles; return the numbers that it was called with."""
    calls: list[int] = []

    @box.on(OrderPlaced, name=name, retry=retry)
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        calls.append(order.number)
        await note(tx, f"{name} {order.order_id} {order.number}")
        if order.number in mood.bad:
            raise ValueError(f"not {order.number} in this mood")

    return calls


async def ended(box: Pillarbox, run: ReplayRun) -> ReplayRun:
    """Wait until a run has ended."""

    async def is_over() -> ReplayRun | None:
        now = await box.dead_letters.run(run.id)
        return None if now.state is RunState.OPEN else now

    found = await wait_until(is_over, timedelta(seconds=30))
    assert found is not None
    return found


async def until_nothing_is_held(box: Pillarbox) -> None:
    """Wait until no hold is left."""

    async def is_empty() -> bool:
        state = await box.store.run(box.store.holding.state())
        return (state.keys, state.messages) == (0, 0)

    await wait_until(is_empty, what="no hold is left")


@pytest.mark.parametrize("broker", [None, "memory://"], ids=["by the database", "by memory"])
async def test_a_poison_message_holds_only_its_key_until_it_is_mended_and_replayed(
    store_url: str, broker: str | None
) -> None:
    box, happenings = make_box(store_url, broker=broker)
    mood = Mood(3)
    calls = declare(box, mood, retry=SOON)

    async with box.running():
        await create_tables(box)
        await publish(box, *(OrderPlaced("a", number) for number in range(1, 6)))
        await publish(box, *(OrderPlaced("b", number) for number in (1, 2, 4)))
        await happenings.until(MessageDead)
        await happenings.until(MessageHandled, 5)
        await happenings.until(MessageHeld, 2)

        (letter,) = await box.dead_letters.list()
        came = await noted(box)
        assert (letter.attempts, calls.count(3)) == (3, 3)
        assert [one for one in came if " a " in one] == ["handle a 1", "handle a 2"]
        assert [one for one in came if " b " in one] == ["handle b 1", "handle b 2", "handle b 4"]

        mood.bad.clear()
        await box.dead_letters.replay(letter.id, by="ann")
        await happenings.until(MessageHandled, 8)
        await until_nothing_is_held(box)

        assert [one for one in await noted(box) if " a " in one] == [f"handle a {number}" for number in range(1, 6)]


async def test_failures_of_a_handler_that_is_installed_as_a_wheel_are_of_one_group(store_url: str) -> None:
    box, happenings = make_box(store_url)
    names: dict[str, Any] = {"__name__": "shop.orders", "OrderPlaced": OrderPlaced}
    source = "async def handle(order: OrderPlaced):\n    raise LookupError(f'no customer {order.order_id!r}')\n"
    exec(compile(source, "/usr/lib/site-packages/shop/orders.py", "exec"), names)
    box.on(OrderPlaced, name="handle", retry=ONCE)(names["handle"])

    async with box.running():
        await publish(box, OrderPlaced("anna", 1), OrderPlaced("bert", 1))
        told = await happenings.until(MessageDead, 2)
        (group,) = await box.dead_letters.groups()

    assert {one.group for one in told} == {group.fingerprint}


async def test_a_replay_reaches_only_the_consumer_that_failed(store_url: str) -> None:
    box, happenings = make_box(store_url)
    mood = Mood(1)
    others = [declare(box, Mood(), name=name) for name in ("mail", "search")]
    declare(box, mood)

    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("a", 1), OrderPlaced("b", 1))
        await happenings.until(MessageDead, 2)
        await happenings.until(MessageHandled, 4)
        mood.bad.clear()
        first, _ = await box.dead_letters.list()
        await box.dead_letters.replay(first.id, by="ann")
        await ended(box, await box.dead_letters.replay_all(DEAD, by="ann"))
        await happenings.until(MessageHandled, 2, consumer="handle")

    assert others == [[1, 1], [1, 1]]
    assert happenings.of(DuplicateSuppressed) == []  # nor did it come to them


async def test_a_discarded_letter_frees_its_key_and_its_late_duplicates_do_not_run(store_url: str) -> None:
    box, happenings = make_box(store_url)
    mood = Mood(1)
    calls = declare(box, mood)

    async with box.running():
        await create_tables(box)
        await publish(box, *(OrderPlaced("a", number) for number in (1, 2, 3)))
        await happenings.until(MessageDead)
        await happenings.until(MessageHeld, 2)
        (letter,) = await box.dead_letters.list()
        await box.broker.sender().send([letter.message])  # a duplicate that is held behind its own key
        await happenings.until(MessageHeld, 3)
        mood.bad.clear()

        await box.dead_letters.discard(letter.id, reason="a test order", by="ann")
        await happenings.until(MessageHandled, 2)
        await box.broker.sender().send([letter.message])
        await happenings.until(DuplicateSuppressed)
        await until_nothing_is_held(box)

        assert calls == [1, 2, 3]
        assert (await box.dead_letters.get(letter.id)).state is DeadLetterState.DISCARDED
        (act,) = await box.dead_letters.acts(letter.id)
        assert (act.act.what, act.act.by, act.act.reason) == ("discard", "ann", "a test order")
        with pytest.raises(ConflictError, match="discarded"):
            await box.dead_letters.replay(letter.id, by="ann")


async def test_a_released_key_goes_on_and_its_letter_can_still_be_replayed(store_url: str) -> None:
    box, happenings = make_box(store_url)
    mood = Mood(1)
    calls = declare(box, mood)

    async with box.running():
        await create_tables(box)
        await publish(box, *(OrderPlaced("a", number) for number in (1, 2, 3)))
        await happenings.until(MessageDead)
        await happenings.until(MessageHeld, 2)
        (letter,) = await box.dead_letters.list()
        await box.broker.sender().send([letter.message])
        await happenings.until(MessageHeld, 3)
        (key,) = await box.held.list()

        await box.held.release(key.consumer, key.hold_key, by="ann", reason="the others matter more")
        await happenings.until(MessageHandled, 2)
        await publish(box, OrderPlaced("a", 4))
        await happenings.until(MessageHandled, 3)
        assert calls == [1, 2, 3, 4]

        mood.bad.clear()
        await box.dead_letters.replay(letter.id, by="ann")
        await happenings.until(MessageHandled, 4)
        await until_nothing_is_held(box)
        assert calls == [1, 2, 3, 4, 1]
        with pytest.raises(NotFoundError):
            await box.held.release(key.consumer, key.hold_key, by="ann", reason="again")


async def test_a_retry_that_waits_is_released_or_skipped(store_url: str) -> None:
    box, happenings = make_box(store_url)
    mood = Mood(1)
    calls = declare(box, mood, retry=IN_AN_HOUR)

    async with box.running():
        await create_tables(box)
        await publish(box, *(OrderPlaced(key, number) for key in "ab" for number in (1, 2)))
        await happenings.until(MessageHeld, 2)
        await wait_until(lambda: calls.count(1) == 2)
        mood.bad.clear()

        async def given_back() -> bool:
            return len(await box.held.list()) == 2

        await wait_until(given_back)
        await box.held.release("shop/handle", "k:a", by="ann", reason="the other side is back")
        letter = await box.held.skip("shop/handle", "k:b", by="ann", reason="a test order")
        await happenings.until(MessageHandled, 3)
        await until_nothing_is_held(box)

        came = await noted(box)
        assert sorted(came) == ["handle a 1", "handle a 2", "handle b 2"]
        assert came.index("handle a 1") < came.index("handle a 2")
        assert (letter.state, letter.reason, letter.attempts) == (DeadLetterState.DISCARDED, "skipped", 1)
        await box.broker.sender().send([letter.message])
        await happenings.until(DuplicateSuppressed)


async def test_skipping_what_blocks_a_key_keeps_the_order_of_the_rest(store_url: str) -> None:
    box, happenings = make_box(store_url)
    calls = declare(box, Mood(1))

    async with box.running():
        await create_tables(box)
        await publish(box, *(OrderPlaced("a", number) for number in range(1, 6)))
        await happenings.until(MessageDead)
        await happenings.until(MessageHeld, 4)
        with pytest.raises(ValueError, match="reason="):
            await box.held.skip("shop/handle", "k:a", by="ann", reason=" ")

        letter = await box.held.skip("shop/handle", "k:a", by="ann", reason="a test order")
        await happenings.until(MessageHandled, 4)
        await until_nothing_is_held(box)

        assert calls == [1, 2, 3, 4, 5]
        assert letter.state is DeadLetterState.DISCARDED
        with pytest.raises(NotFoundError):
            await box.held.skip("shop/handle", "k:a", by="ann", reason="again")


async def test_a_letter_is_edited_within_its_type_and_replayed(store_url: str) -> None:
    box, happenings = make_box(store_url)
    declare(box, Mood(1))

    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("a", 1))
        await happenings.until(MessageDead)
        (letter,) = await box.dead_letters.list()
        with pytest.raises(DecodeError):
            await box.dead_letters.edit(letter.id, patch={"number": "two"}, reason="a typo", by="ann")
        with pytest.raises(ValueError, match="patch="):
            await box.dead_letters.edit(letter.id, reason="a typo", by="ann")

        await box.dead_letters.edit(letter.id, patch={"number": 2}, reason="a typo", by="ann")
        await box.dead_letters.replay(letter.id, by="ann")
        (handled,) = await happenings.until(MessageHandled)

        (edit,) = await box.dead_letters.edits(letter.id)
        assert await noted(box) == ["handle a 2"]
        assert handled.message_id == letter.message.id
        assert edit.before == letter.message.body
        assert [(one.path, one.before, one.after) for one in edit.changes] == [("/number", "1", "2")]
        assert [one.act.what for one in await box.dead_letters.acts(letter.id)] == ["edit", "replay"]


async def test_what_cannot_be_decoded_is_mended_by_an_edit(store_url: str) -> None:
    box, happenings = make_box(store_url)
    declare(box, Mood())

    async with box.running():
        await create_tables(box)
        garbage = structs.replace(message("m1", key="o-1"), body=b"\xff{")
        await box.broker.sender().send([garbage])
        await happenings.until(MessageDead)
        (letter,) = await box.dead_letters.list()

        await box.dead_letters.edit(letter.id, b'{"order_id":"o-1","number":7}', reason="truncated", by="ann")
        await box.dead_letters.replay(letter.id, by="ann")
        await happenings.until(MessageHandled)

        assert await noted(box) == ["handle o-1 7"]
        assert (await box.dead_letters.edits(letter.id))[0].before == garbage.body


async def test_a_run_replays_each_letter_of_its_set_once(store_url: str) -> None:
    box, happenings = make_box(store_url)
    mood = Mood(*range(10))
    calls = declare(box, mood)

    async with box.running():
        await create_tables(box)
        await publish(box, *(OrderPlaced(f"o-{number % 5}", number % 10) for number in range(20)))
        await happenings.until(MessageDead, 5)
        await happenings.until(MessageHeld, 15)
        assert (await box.dead_letters.replay_all(DEAD, by="ann", dry_run=True)).total == 5
        mood.bad.clear()

        run = await box.dead_letters.replay_all(DEAD, by="ann", rate=50, canary=2, stop_at=0.1)
        run = await ended(box, run)
        await happenings.until(MessageHandled, 20)
        await until_nothing_is_held(box)

        assert (run.state, dict(run.items)) == (RunState.FINISHED, {ItemState.RESOLVED: 5})
        assert len(calls) == 25
        assert await box.dead_letters.runs() == (run,)
        came = await noted(box)
        assert [[one for one in came if f"o-{key} " in one] for key in range(5)] == [
            [f"handle o-{key} {(key + 5 * turn) % 10}" for turn in range(4)] for key in range(5)
        ]


async def test_a_canary_that_fails_again_stops_the_run(store_url: str) -> None:
    box, happenings = make_box(store_url)
    calls = declare(box, Mood(0))

    async with box.running():
        await create_tables(box)
        await publish(box, *(OrderPlaced(f"o-{number}") for number in range(10)))
        await happenings.until(MessageDead, 10)

        run = await ended(box, await box.dead_letters.replay_all(DEAD, by="ann", canary=3))

        assert run.state is RunState.STOPPED
        assert run.ended_because == "3 of 3 replays failed, at most 0% may"
        assert dict(run.items) == {ItemState.FAILED: 3, ItemState.PENDING: 7}
        assert len(calls) == 13
        assert await box.dead_letters.count() == 10


async def test_a_run_whose_letters_fail_again_stops_long_before_its_end(store_url: str) -> None:
    box, happenings = make_box(store_url)
    calls = declare(box, Mood(0))

    async with box.running():
        await create_tables(box)
        await publish(box, *(OrderPlaced(f"o-{number}") for number in range(60)))
        await happenings.until(MessageDead, 60)

        run = await ended(box, await box.dead_letters.replay_all(DEAD, by="ann", stop_at=0.5))

        assert run.state is RunState.STOPPED
        assert run.count(ItemState.PENDING) == 50
        assert len(calls) == 70


async def test_a_cancelled_run_leaves_what_is_pending_dead(store_url: str) -> None:
    box, happenings = make_box(store_url)
    declare(box, Mood(0))

    async with box.running():
        await create_tables(box)
        await publish(box, *(OrderPlaced(f"o-{number}") for number in range(4)))
        await happenings.until(MessageDead, 4)

        run = await box.dead_letters.replay_all(DEAD, by="ann", rate=1)
        run = await box.dead_letters.cancel(run.id, by="bob", reason="not now")

        assert (run.state, run.ended_because) == (RunState.CANCELLED, "by bob: not now")
        assert await box.dead_letters.count() == run.count(ItemState.PENDING) >= 2
        with pytest.raises(ConflictError):
            await box.dead_letters.cancel(run.id, by="bob", reason="not now")
        with pytest.raises(NotFoundError):
            await box.dead_letters.cancel("no-such-run", by="bob", reason="not now")


async def test_a_letter_that_failed_too_often_is_replayed_by_force_only(store_url: str) -> None:
    box, happenings = make_box(store_url)
    declare(box, Mood(0))

    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("a"))
        await happenings.until(MessageDead)
        (letter,) = await box.dead_letters.list()
        for turn in range(MAX_REPLAYS):
            await box.dead_letters.replay(letter.id, by="ann")
            await happenings.until(MessageDead, turn + 2)

        with pytest.raises(ReplayedTooOftenError, match="10 times"):
            await box.dead_letters.replay(letter.id, by="ann")
        await box.dead_letters.replay(letter.id, by="ann", force=True)
        await happenings.until(MessageDead, MAX_REPLAYS + 2)


async def test_a_cause_that_was_resolved_and_comes_back_is_a_regression(store_url: str) -> None:
    box, happenings = make_box(store_url)
    declare(box, Mood(0))

    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("a"), OrderPlaced("b"))
        await happenings.until(MessageDead, 2)
        (group,) = await box.dead_letters.groups()
        assert (group.error_type, group.example, group.dead) == ("ValueError", "not 0 in this mood", 2)
        await box.dead_letters.resolve_group(group.fingerprint, by="ann", note="in 1.2")
        await publish(box, OrderPlaced("c"))
        await happenings.until(MessageDead, 3)

        (group,) = await box.dead_letters.groups()
        assert (group.regressed, group.note, group.dead) == (True, "in 1.2", 3)
        with pytest.raises(NotFoundError):
            await box.dead_letters.ignore_group("no-such-cause", by="ann")
