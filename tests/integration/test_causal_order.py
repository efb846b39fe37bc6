"""A consumer that keeps the order of causes: every effect after its causes, and nothing waits in silence."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from pillarbox import Causal, Cause
from pillarbox.app.places import store_at
from pillarbox.deadletter import DeadLetterFilter
from pillarbox.message.return_address import ReturnAddress
from pillarbox.observe import CauseAwaited, CauseMissing, MessageDead
from pillarbox.saga.journal import Direction
from pillarbox.saga.token import Awaited, signed
from tests import effort
from tests.integration.causes import CONSUMER, ECHOES, Followers, renamed, step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from random import Random

    from pillarbox.consumer import WhenDead
    from pillarbox.message import Message
    from pillarbox.relational import RelationalStore

A_WHILE = timedelta(hours=1)


@pytest.fixture
async def store(request: pytest.FixtureRequest) -> AsyncIterator[RelationalStore]:
    """An empty store: in memory, or where a test says; what the databases do is the contract's matter."""
    url = request.getfixturevalue("store_url") if "store_url" in request.fixturenames else "memory://"
    made = store_at(url)
    await made.migrate()
    yield made
    await made.close()


async def followers(store: RelationalStore, **how: object) -> Followers:
    made = Followers(store, **how)  # type: ignore[arg-type]  # passed on as they are
    await made.open()
    return made


async def test_a_message_waits_for_a_cause_of_another_key_and_runs_when_it_is_processed(store: RelationalStore) -> None:
    process = await followers(store)

    await process.arrive(step("b", "a", key="other"))
    waiting = await process.waiting()
    await process.arrive(step("a"))
    await process.drain()

    assert waiting == {"b": {"a"}}
    assert await process.handled() == ["a", "b"]
    assert await process.waiting() == {}
    assert [one.causes for one in process.notices.events if isinstance(one, CauseAwaited)] == [("a",)]


async def test_a_cause_of_the_same_key_comes_by_another_channel(store: RelationalStore) -> None:
    process = await followers(store)

    await process.arrive(step("b", "ea"))
    await process.arrive(step("c"), step("e1", topic=ECHOES), step("ea", topic=ECHOES))
    await process.drain()

    assert await process.handled() == ["e1", "ea", "b", "c"]


async def test_causes_of_one_run_are_handled_first_with_what_is_before_them(store: RelationalStore) -> None:
    process = await followers(store)

    await process.arrive(
        *(step("b", "eb"), step("c"), step("e0", topic=ECHOES), step("eb", "a", topic=ECHOES), step("a", key="other"))
    )

    assert await process.handled() == ["e0", "a", "eb", "b", "c"]


@pytest.mark.parametrize("when_dead", [None, "skip"])
async def test_what_relies_on_a_message_of_its_run_that_fails_waits(
    store: RelationalStore, when_dead: WhenDead | None
) -> None:
    process = await followers(store, bad={"a": 1}, when_dead=when_dead)

    await process.arrive(step("a"), step("b", "a", key="other"), step("c", "b", key="third"), step("d", key="third"))
    handled = await process.handled()
    await process.let_pass(timedelta(seconds=1))
    await process.drain()

    assert (handled, await process.handled()) == ([], ["a", "b", "c", "d"])


async def test_later_messages_of_a_key_stay_behind_one_that_waits(store: RelationalStore) -> None:
    process = await followers(store)

    await process.arrive(step("b", "a"), step("c"), step("a", key="other"), step("z", key="third"))
    await process.drain()

    handled = await process.handled()
    assert [one for one in handled if one in "bc"] == ["b", "c"]
    assert handled.index("a") < handled.index("b")


@pytest.mark.usefixtures("store_url")
@pytest.mark.parametrize("outside", [False, True], ids=["transaction", "outside"])
async def test_a_message_waits_while_its_cause_is_retried(store: RelationalStore, outside: bool) -> None:
    process = await followers(store, outside=outside, bad={"a": 1})

    await process.arrive(step("a"), step("b", "a", key="other"), step("c", "a"))
    assert await process.handled() == []
    await process.let_pass(timedelta(seconds=1))
    await process.drain()

    handled = await process.handled()
    assert handled[0] == "a"
    assert sorted(handled) == ["a", "b", "c"]


@pytest.mark.parametrize("outside", [False, True])
async def test_what_is_suppressed_as_a_duplicate_waits_for_nothing_any_more(
    store: RelationalStore, outside: bool
) -> None:
    process = await followers(store, dedupe_by="name", outside=outside)
    await process.arrive(step("b", "a", key="other"))
    await process.arrive(renamed(step("b", key="third"), "another-b"))

    await process.arrive(step("a"))
    await process.drain()

    assert await process.handled() == ["b", "a"]
    assert await process.waiting() == {}


async def test_what_waits_for_a_duplicate_runs_when_that_is_suppressed(store: RelationalStore) -> None:
    process = await followers(store, dedupe_by="name")
    await process.arrive(step("a", key="other"))
    await process.arrive(step("b", "another-a"))

    await process.arrive(renamed(step("a", key="third"), "another-a"))
    await process.drain()

    assert await process.handled() == ["a", "b"]


async def test_a_message_that_died_after_its_cause_had_come_waits_for_nothing(store: RelationalStore) -> None:
    process = await followers(store, bad={"b": 9})
    await process.arrive(step("b", "a", key="other"))

    await process.arrive(step("a"))
    await process.drain()

    assert [one.message.id for one in await process.box.dead_letters.list()] == ["b"]
    assert await process.waiting() == {}


@pytest.mark.parametrize("outside", [False, True])
async def test_what_is_behind_a_dead_command_of_a_saga_waits_for_its_causes(
    store: RelationalStore, outside: bool
) -> None:
    """Such a command lets go of its key, so nothing else holds up what is behind it."""
    process = await followers(store, bad={"x": 2}, outside=outside)
    await process.arrive(of_a_saga(step("x")), step("b", "a"), step("c"))
    await process.let_pass(timedelta(seconds=1))

    await process.drain()

    assert [one.message.id for one in await process.box.dead_letters.list()] == ["x"]
    assert await process.handled() == []
    await process.arrive(step("a", key="other"))
    await process.drain()
    assert await process.handled() == ["a", "b", "c"]


def of_a_saga(message: Message) -> Message:
    """Return ``message`` as a command that a saga awaits the answer of."""
    token = signed(Awaited("shop/fulfil", "o-1", "reserve", Direction.DO, 1, 0), "secret")
    there = ReturnAddress(to="queue:shop.replies", key="o-1", types=("stock.reserved",), token=token)
    return structs.replace(message, headers={**message.headers, **there.headers()})


async def test_causes_that_the_consumer_never_sees_are_ignored(store: RelationalStore) -> None:
    process = await followers(store)
    unseen = [Cause("u1", "step.undone", "topic:step"), Cause("u2", "step.taken", "topic:elsewhere")]

    await process.arrive(step("a", others=unseen), step("e1", topic=ECHOES, others=unseen, key="other"))

    assert await process.handled() == ["a", "e1"]


async def test_a_message_of_no_key_waits_alone(store: RelationalStore) -> None:
    process = await followers(store)

    await process.arrive(step("b", "a", key=None), step("c", key=None))
    await process.arrive(step("a", key=None))
    await process.drain()

    assert await process.handled() == ["c", "a", "b"]


async def test_held_means_that_it_waits_on_and_is_told_of(store: RelationalStore) -> None:
    process = await followers(store, ordering=Causal(wait=timedelta(minutes=1)))
    await process.arrive(step("b", "a"), step("c"))

    await process.let_pass(A_WHILE)
    await process.drain()

    (told,) = [one for one in process.notices.events if isinstance(one, CauseMissing)]
    assert (told.message_id, told.causes, told.trouble, told.outcome) == ("b", ("a",), "missing", "hold")
    assert told.waited >= A_WHILE
    assert await process.handled() == []
    await process.arrive(step("a", key="other"))
    await process.drain()
    assert await process.handled() == ["a", "b", "c"]


async def test_run_means_that_it_is_handled_without_its_cause_and_told_of(store: RelationalStore) -> None:
    process = await followers(store, ordering=Causal(wait=timedelta(minutes=1), when_missing="run"))
    await process.arrive(step("b", "a"), step("c", "a2"))

    await process.let_pass(A_WHILE)
    await process.drain()
    handled = await process.handled()
    await process.let_pass(A_WHILE)
    await process.drain()

    assert (handled, await process.handled()) == (["b"], ["b", "c"])
    told = [one for one in process.notices.events if isinstance(one, CauseMissing)]
    assert [(one.message_id, one.outcome) for one in told] == [("b", "run"), ("c", "run")]
    assert await process.waiting() == {}


async def test_dead_means_that_it_is_a_dead_letter_and_can_be_replayed(store: RelationalStore) -> None:
    process = await followers(store, ordering=Causal(wait=timedelta(minutes=1), when_missing="dead"))
    await process.arrive(step("b", "a"))

    await process.let_pass(A_WHILE)
    await process.drain()

    (letter,) = await process.box.dead_letters.list()
    assert (letter.message.id, letter.reason, letter.error_type) == ("b", "cause-missing", "CauseMissingError")
    assert await process.waiting() == {}
    await process.box.dead_letters.replay(letter.id, by="me")
    await process.drain()
    assert await process.handled() == ["b"], "an operator's replay does not wait for what is not on its way"


async def test_a_dead_cause_is_trouble_at_once_and_its_replay_releases_what_waits(store: RelationalStore) -> None:
    process = await followers(store, bad={"a": 2})
    await process.arrive(step("a"), step("b", "a", key="other"))
    await process.drain()
    await process.let_pass(timedelta(seconds=1))
    await process.drain()

    assert process.told_of("dead") == {"b"}
    (letter,) = await process.box.dead_letters.list()
    await process.box.dead_letters.replay(letter.id, by="me")
    await process.drain()
    assert await process.handled() == ["a", "b"]


async def test_a_cause_that_is_discarded_is_waited_for_no_more(store: RelationalStore) -> None:
    process = await followers(store, bad={"a": 2})
    await process.arrive(step("a"), step("b", "a", key="other"))
    await process.drain()
    assert await process.waiting() == {"b": {"a"}}

    (letter,) = await process.box.dead_letters.list()
    await process.box.dead_letters.discard(letter.id, reason="a test order", by="me")
    await process.drain()

    assert await process.handled() == ["b"]
    assert await process.waiting() == {}


async def test_what_waits_for_its_cause_can_be_skipped(store: RelationalStore) -> None:
    process = await followers(store)
    await process.arrive(step("b", "a"), step("c"), step("d", "b", key="other"))
    (held,) = [one for one in await process.box.held.list() if tuple(one.waits_for) == ("a",)]

    letter = await process.box.held.skip(held.consumer, held.hold_key, reason="a test order", by="me")
    await process.drain()

    assert (letter.message.id, letter.reason) == ("b", "skipped")
    assert sorted(await process.handled()) == ["c", "d"]
    assert await process.waiting() == {}


async def test_what_died_of_a_dead_cause_is_replayed_after_it(store: RelationalStore) -> None:
    process = await followers(store, bad={"a": 2}, ordering=Causal(when_missing="dead"), when_dead="skip")
    await process.arrive(step("a"), step("b", "a", key="other"))
    await process.drain()
    letters = await process.box.dead_letters.list(DeadLetterFilter(consumer=CONSUMER))
    assert [one.message.id for one in letters] == ["a", "b"]

    for letter in letters:
        await process.box.dead_letters.replay(letter.id, by="me")
    await process.drain()

    assert await process.handled() == ["a", "b"]


@pytest.mark.parametrize("policy", ["hold", "run", "dead"])
async def test_a_cycle_is_found_at_once_and_told_of(store: RelationalStore, policy: str) -> None:
    process = await followers(store, ordering=Causal(when_missing=policy))  # type: ignore[arg-type]  # one of the three

    await process.arrive(step("a", "b"))
    await process.arrive(step("b", "a", key="other"))
    await process.arrive(step("self", "self", key="third"))
    await process.let_pass(timedelta(seconds=1))
    await process.drain()

    told = {
        one.message_id for one in process.notices.events if isinstance(one, CauseMissing) and one.trouble == "cycle"
    }
    dead = {one.message_id for one in process.notices.events if isinstance(one, MessageDead)}
    handled = sorted(await process.handled())
    match policy:
        case "hold":
            assert (told, handled, dead) == ({"a", "b", "self"}, [], set())
        case "run":
            assert (told, handled, dead) == ({"b", "self"}, ["a", "b", "self"], set())
        case _:
            assert (told >= {"b", "self"}, handled, dead) == (True, [], {"a", "b", "self"})


async def test_messages_of_a_channel_that_come_in_the_wrong_order_are_told_of_as_a_cycle(
    store: RelationalStore,
) -> None:
    process = await followers(store)

    await process.arrive(step("b", "a"))
    await process.arrive(step("a"))
    await process.let_pass(timedelta(seconds=1))
    await process.drain()

    assert (process.told_of("cycle"), await process.handled()) == ({"b"}, [])


@pytest.mark.parametrize("causes", ["rain", "{}", '[["a"]]'])
async def test_a_header_that_cannot_be_read_makes_a_dead_letter(store: RelationalStore, causes: str) -> None:
    process = await followers(store)
    message = step("a")

    await process.arrive(replaced(message, causes))

    (letter,) = await process.box.dead_letters.list()
    assert (letter.reason, letter.error_type) == ("undecodable", "DecodeError")


async def test_more_causes_than_the_consumer_reads_make_a_dead_letter(store: RelationalStore) -> None:
    process = await followers(store, ordering=Causal(max_causes=2))

    await process.arrive(step("d", "a", "b", "c"))

    (letter,) = await process.box.dead_letters.list()
    assert letter.reason == "undecodable"


def replaced(message: Message, causes: str) -> Message:
    return structs.replace(message, headers={**message.headers, "causes": causes})


def graph(rng: Random, size: int) -> list[Message]:
    """Return messages of few keys in an order that keeps causes first; each has up to three causes before it."""
    made: list[Message] = []
    for number in range(size):
        echo = rng.random() < 0.3
        name = f"{'e' if echo else 's'}{number:03}"
        causes = [one.id for one in rng.sample(made, min(len(made), rng.choice([0, 0, 1, 1, 2, 3])))]
        key = rng.choice([None, "k1", "k2", "k3"])
        made.append(step(name, *causes, key=key, topic=ECHOES if echo else "topic:step"))
    return made


@pytest.mark.usefixtures("store_url")
async def test_every_effect_comes_once_and_after_its_causes_in_any_order_that_keeps_each_channels_keys(
    store: RelationalStore, rng: Random
) -> None:
    for _ in range(effort.of(20, 1)):
        messages = graph(rng, 40)
        process = await followers(store, bad={one.id: 1 for one in messages if rng.random() < 0.1})

        await deliver(process, shuffled_by_line(rng, messages), rng)

        handled = await process.handled()
        assert sorted(handled) == sorted(one.id for one in messages), "each once, and nothing waits any more"
        assert_causes_first(handled, messages)
        for line in lines_of(messages):
            assert [one for one in handled if one in line] == line, "a channel's order of a key"
        state = await store.run(store.holding.state(CONSUMER))
        assert (state.keys, state.messages, await process.waiting()) == (0, 0, {})
        assert process.told_of("cycle") == set()
        await forget_all(store)


@pytest.mark.usefixtures("store_url")
async def test_in_any_order_whatever_no_effect_is_before_its_causes_and_what_waits_on_is_told_of(
    store: RelationalStore, rng: Random
) -> None:
    for _ in range(effort.of(20, 1)):
        messages = graph(rng, 40)
        process = await followers(store)
        arriving = list(messages)
        rng.shuffle(arriving)

        await deliver(process, [*arriving, *rng.sample(messages, 8)], rng)
        await process.let_pass(timedelta(minutes=1))
        await process.drain()

        handled = await process.handled()
        assert len(set(handled)) == len(handled)
        assert_causes_first(handled, messages)
        if len(handled) < len(messages):
            heads = set(await process.waiting())
            assert heads
            assert heads & process.told_of("cycle"), "no stall in silence"
        await forget_all(store)


def assert_causes_first(handled: list[str], messages: list[Message]) -> None:
    at = {name: place for place, name in enumerate(handled)}
    never = len(handled)
    inverted = [
        (one.id, cause.id)
        for one in messages
        for cause in one.causes
        if one.id in at and at.get(cause.id, never) > at[one.id]
    ]
    assert inverted == [], "an effect before its cause"


async def deliver(process: Followers, arriving: list[Message], rng: Random) -> None:
    """Have ``arriving`` handled in runs of any size, and what is due drained in between and at the end."""
    while arriving:
        count = rng.randint(1, 12)
        await process.arrive(*arriving[:count])
        arriving = arriving[count:]
        if rng.random() < 0.5:
            await process.drainer.round()
    await process.drain()
    await process.let_pass(timedelta(seconds=1))
    await process.drain()


def lines_of(messages: list[Message]) -> list[list[str]]:
    """Return the ids of each channel and key, in order."""
    lines: dict[tuple[str, str], list[str]] = {}
    for one in messages:
        lines.setdefault((one.destination, one.key or one.id), []).append(one.id)
    return list(lines.values())


def shuffled_by_line(rng: Random, messages: list[Message]) -> list[Message]:
    """Return ``messages`` mixed by chance, some twice; of a channel's key the first deliveries are in order."""
    named = {one.id: one for one in messages}
    lines = [list(line) for line in lines_of(messages)]
    mixed: list[Message] = []
    while lines:
        line = rng.choice(lines)
        mixed.append(named[line.pop(0)])
        if rng.random() < 0.2:
            mixed.append(rng.choice(mixed))
        lines = [one for one in lines if one]
    return mixed


async def forget_all(store: RelationalStore) -> None:
    async with store.begin() as transaction:
        for table in ("pillarbox_inbox", "pillarbox_holds", "pillarbox_held", "pillarbox_waits", "effects"):
            await transaction.connection.exec_driver_sql(f"DELETE FROM {table}")
