"""The rules of dead letters: once per consumer and message, as they were delivered, until someone decides."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from pillarbox.deadletter import Burial, DeadLetter, DeadLetterFilter, DeadLetterState
from pillarbox.holding import FailedAttempt
from pillarbox.message import Message
from pillarbox.testing.contracts.harness import StoreHarness, let_expire, make_message, rolled_back

CONSUMER = "shop/reserve-stock"
FIRST = FailedAttempt(
    attempt=1, at=datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC), error_type="TimeoutError", error="ünreached"
)
LAST = FailedAttempt(attempt=2, at=datetime(2026, 1, 2, 3, 9, tzinfo=UTC), error_type="ValueError", error="unfit")
ANY_STATE = DeadLetterFilter(state=None)
LONG_AGO, FAR_OFF = datetime(2000, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)


class DeadLetterStoreContract:
    """What every ``DeadLetterStore`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_a_letter_holds_the_message_as_it_was_delivered(self, harness: StoreHarness) -> None:
        """Body and headers are identical, also where nobody could decode them."""
        message = replace(
            make_message("m1", "ключ", body=bytes(range(256)) * 64), headers={"x-name": "Łódź 😀", "x-empty": ""}
        )
        await bury(harness, burial(message))

        (letter,) = await find(harness)

        assert letter.message == message
        assert await harness.source.run(harness.dead_letters.get(letter.id)) == letter

    async def test_a_letter_tells_why_it_is_there(self, harness: StoreHarness) -> None:
        """Attempts, reason, history, the last error, its stack and its group."""
        await bury(harness, burial(make_message("m1")))

        (letter,) = await find(harness)

        assert (letter.consumer, letter.hold_key, letter.state) == (CONSUMER, "k:k", DeadLetterState.DEAD)
        assert (letter.attempts, letter.reason, letter.replays) == (2, "exhausted", 0)
        assert letter.history == (FIRST, LAST)
        assert (letter.error_type, letter.error) == ("ValueError", "unfit")
        assert (letter.stack, letter.fingerprint) == ("Traceback …", "cause-1")
        assert letter.first_failed_at == FIRST.at
        assert letter.last_failed_at > letter.first_failed_at
        assert timedelta(0) <= letter.dead_for < timedelta(hours=1)

    async def test_a_letter_s_first_failure_is_never_after_its_last(self, harness: StoreHarness) -> None:
        """Even where the worker's clock is ahead of the database's."""
        ahead = replace_at(FIRST, datetime.now(UTC) + timedelta(hours=1))
        await bury(harness, burial(make_message("m1"), history=(ahead,)))
        await bury(harness, burial(make_message("m2"), history=()))

        assert all(letter.first_failed_at <= letter.last_failed_at for letter in await find(harness))

    async def test_a_message_is_dead_once_per_consumer(self, harness: StoreHarness) -> None:
        """Another consumer's letter is its own."""
        await bury(harness, burial(make_message("m1")))
        await bury(harness, burial(make_message("m1")))
        await bury(harness, burial(make_message("m1")), consumer="shop/other")

        assert sorted(letter.consumer for letter in await find(harness)) == ["shop/other", CONSUMER]

    async def test_burying_again_adds_the_attempts_up_and_keeps_the_first_failure(self, harness: StoreHarness) -> None:
        """The same letter, with its history continued and its latest reason."""
        again = FailedAttempt(attempt=1, at=datetime(2026, 2, 1, tzinfo=UTC), error_type="KeyError", error="gone")
        await bury(harness, burial(make_message("m1")))
        (before,) = await find(harness)
        await harness.source.run(harness.dead_letters.move(before.id, to=DeadLetterState.REPLAYING))
        await let_expire(harness)

        await bury(harness, burial(make_message("m1"), history=(again,), reason="permanent", attempts=1))

        (letter,) = await find(harness)
        assert (letter.id, letter.state, letter.replays) == (before.id, DeadLetterState.DEAD, 1)
        assert (letter.attempts, letter.reason) == (3, "permanent")
        assert letter.history == (FIRST, LAST, again)
        assert (letter.error_type, letter.error) == ("KeyError", "gone")
        assert letter.first_failed_at == before.first_failed_at
        assert letter.last_failed_at > before.last_failed_at

    async def test_a_burial_is_part_of_the_transaction(self, harness: StoreHarness) -> None:
        """Rolled back, the message is not dead."""
        async with rolled_back(harness) as tx:
            await tx.run(harness.dead_letters.bury(CONSUMER, [burial(make_message("m1"))]))

        assert await find(harness, ANY_STATE) == ()

    async def test_concurrent_burials_of_the_same_messages_do_not_deadlock(self, harness: StoreHarness) -> None:
        """Two workers in opposite order; each message is one letter."""
        messages = [make_message(f"m{number}") for number in range(20)]

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(bury(harness, *(burial(message) for message in messages)))
            tasks.create_task(bury(harness, *(burial(message) for message in reversed(messages))))

        assert [letter.attempts for letter in await find(harness)] == [4] * 20

    async def test_a_replaying_letter_that_was_handled_is_resolved(self, harness: StoreHarness) -> None:
        """Only that consumer's, and only where it was being replayed."""
        await bury(harness, burial(make_message("m1")), burial(make_message("m2")))
        await bury(harness, burial(make_message("m1")), consumer="shop/other")
        one, two, other = await find(harness)
        for letter in (one, other):
            await harness.source.run(harness.dead_letters.move(letter.id, to=DeadLetterState.REPLAYING))

        await harness.source.run(harness.dead_letters.resolve(CONSUMER, ["m1", "m2"]))

        states = {letter.id: letter.state for letter in await find(harness, ANY_STATE)}
        assert states == {
            one.id: DeadLetterState.RESOLVED,
            two.id: DeadLetterState.DEAD,
            other.id: DeadLetterState.REPLAYING,
        }

    async def test_only_a_dead_letter_is_moved(self, harness: StoreHarness) -> None:
        """Compare and set: of two operators one succeeds."""
        await bury(harness, burial(make_message("m1")))
        (letter,) = await find(harness)

        async with asyncio.TaskGroup() as tasks:
            moves = [tasks.create_task(move(harness, letter.id, DeadLetterState.REPLAYING)) for _ in range(4)]

        assert sorted(task.result() for task in moves) == [False, False, False, True]
        assert not await move(harness, letter.id, DeadLetterState.DISCARDED)

    async def test_moving_to_replaying_counts_and_discarding_does_not(self, harness: StoreHarness) -> None:
        """The number of replays is the number of replays."""
        await bury(harness, burial(make_message("m1")), burial(make_message("m2")))
        one, two = await find(harness)

        assert await move(harness, one.id, DeadLetterState.REPLAYING)
        assert await move(harness, two.id, DeadLetterState.DISCARDED)

        found = {letter.id: (letter.state, letter.replays) for letter in await find(harness, ANY_STATE)}
        assert found == {one.id: (DeadLetterState.REPLAYING, 1), two.id: (DeadLetterState.DISCARDED, 0)}

    async def test_a_letter_that_is_not_there_is_neither_found_nor_moved(self, harness: StoreHarness) -> None:
        """Nor is anything else."""
        assert await harness.source.run(harness.dead_letters.get(123_456)) is None
        assert not await move(harness, 123_456, DeadLetterState.REPLAYING)

    async def test_letters_are_paged_in_the_order_of_their_arrival(self, harness: StoreHarness) -> None:
        """Each page starts above the last id of the one before."""
        await bury(harness, *(burial(make_message(f"m{number}")) for number in range(7)))

        pages: list[list[str]] = []
        after = 0
        while page := await harness.source.run(harness.dead_letters.find(ANY_STATE, after=after, limit=3)):
            pages.append([letter.message.id for letter in page])
            after = page[-1].id

        assert pages == [["m0", "m1", "m2"], ["m3", "m4", "m5"], ["m6"]]

    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            (DeadLetterFilter(), ["m1", "m2", "m3"]),
            (DeadLetterFilter(type="stock.reserved"), ["m2"]),
            (DeadLetterFilter(consumer="shop/other"), ["m3"]),
            (DeadLetterFilter(group="cause-2"), ["m3"]),
            (DeadLetterFilter(key="K"), ["m2"]),
            (DeadLetterFilter(state=DeadLetterState.DISCARDED), ["m4"]),
            (DeadLetterFilter(state=None), ["m1", "m2", "m3", "m4"]),
            (DeadLetterFilter(consumer=CONSUMER, key="k"), ["m1"]),
            (DeadLetterFilter(consumer=CONSUMER, group="cause-2"), []),
            (DeadLetterFilter(type="ORDER.PLACED"), []),
            (DeadLetterFilter(reason="permanent"), ["m2"]),
            (DeadLetterFilter(text="UNFIT"), ["m1", "m2"]),
            (DeadLetterFilter(text='100%_"\\'), ["m3"]),
            (DeadLetterFilter(text="Ünd 100"), ["m3"]),
            (DeadLetterFilter(text="\ud800"), []),
            (DeadLetterFilter(text="_____"), []),
            (DeadLetterFilter(since=LONG_AGO, reason="exhausted"), ["m1", "m3"]),
            (DeadLetterFilter(since=FAR_OFF), []),
            (DeadLetterFilter(until=LONG_AGO), []),
            (DeadLetterFilter(until=FAR_OFF, consumer="shop/other"), ["m3"]),
        ],
        ids=str,
    )
    async def test_a_filter_finds_and_counts_what_matches_all_of_it(
        self, harness: StoreHarness, where: DeadLetterFilter, expected: list[str]
    ) -> None:
        """What is left out is not asked for; text is compared byte by byte."""
        await bury(harness, burial(make_message("m1")))
        await bury(harness, burial(replace(make_message("m2", "K"), type="stock.reserved"), reason="permanent"))
        odd = FailedAttempt(attempt=1, at=FIRST.at, error_type="KeyError", error='Ünd 100%_"\\ of it')
        await bury(harness, burial(make_message("m3"), fingerprint="cause-2", history=(odd,)), consumer="shop/other")
        await bury(harness, burial(make_message("m4")))
        discarded = (await find(harness, DeadLetterFilter(consumer=CONSUMER)))[-1]
        assert await move(harness, discarded.id, DeadLetterState.DISCARDED)

        assert [letter.message.id for letter in await find(harness, where)] == expected
        assert await harness.source.run(harness.dead_letters.count(where)) == len(expected)

    async def test_the_letters_that_hold_a_key_are_found_by_it(self, harness: StoreHarness) -> None:
        """Those that are dead, of this consumer; until they hold only themselves."""
        await bury(
            harness, *(burial(make_message(f"m{number}")) for number in range(3)), burial(make_message("x", "K"))
        )
        await bury(harness, burial(make_message("m0")), consumer="shop/other")
        one, two, three, *_ = await find(harness, DeadLetterFilter(consumer=CONSUMER))
        await move(harness, two.id, DeadLetterState.REPLAYING)
        assert [letter.id for letter in await blocking(harness, "k:k")] == [one.id, three.id]

        await harness.source.run(harness.operators.blockers.stand_alone(one.id, "m:m0"))

        assert [letter.id for letter in await blocking(harness, "k:k")] == [three.id]
        assert [letter.id for letter in await blocking(harness, "m:m0")] == [one.id]

    async def test_a_letter_is_found_by_its_message(self, harness: StoreHarness) -> None:
        """In whatever state it is."""
        await bury(harness, burial(make_message("m1")))
        (letter,) = await find(harness)
        await move(harness, letter.id, DeadLetterState.REPLAYING)

        found = await harness.source.run(harness.operators.blockers.of_message(CONSUMER, "m1"))
        assert found is not None
        assert (found.id, found.state) == (letter.id, DeadLetterState.REPLAYING)
        assert await harness.source.run(harness.operators.blockers.of_message(CONSUMER, "M1")) is None


def burial(
    message: Message,
    *,
    history: tuple[FailedAttempt, ...] = (FIRST, LAST),
    reason: str = "exhausted",
    attempts: int = 2,
    fingerprint: str = "cause-1",
) -> Burial:
    """Return the burial of a message."""
    return Burial(
        hold_key=f"k:{message.key}",
        message=message,
        reason=reason,
        attempts=attempts,
        history=history,
        stack="Traceback …",
        fingerprint=fingerprint,
    )


def replace_at(attempt: FailedAttempt, at: datetime) -> FailedAttempt:
    """Return ``attempt`` at another time."""
    return FailedAttempt(attempt=attempt.attempt, at=at, error_type=attempt.error_type, error=attempt.error)


async def bury(harness: StoreHarness, *burials: Burial, consumer: str = CONSUMER) -> None:
    """Bury messages in a committed transaction."""
    await harness.source.run(harness.dead_letters.bury(consumer, burials))


async def find(harness: StoreHarness, where: DeadLetterFilter | None = None) -> tuple[DeadLetter, ...]:
    """Find letters, by default the dead ones."""
    finding = harness.dead_letters.find(where or DeadLetterFilter(), after=0, limit=1000)
    return tuple(await harness.source.run(finding))


async def move(harness: StoreHarness, letter_id: int, to: DeadLetterState) -> bool:
    """Move a letter in a committed transaction."""
    return await harness.source.run(harness.dead_letters.move(letter_id, to=to))


async def blocking(harness: StoreHarness, hold_key: str) -> tuple[DeadLetter, ...]:
    """Return the letters that hold a key."""
    return tuple(await harness.source.run(harness.operators.blockers.blocking(CONSUMER, hold_key)))
