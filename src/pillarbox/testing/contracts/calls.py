"""The rules of calls to the outside, and of the operations that were applied."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from pillarbox.idempotency.calls import Answered, Held, InDoubt, Ours, Standing
from pillarbox.testing.contracts.harness import ANY_AGE, LONG, SHORT, StoreHarness, let_expire, rolled_back
from pillarbox.testing.waiting import assert_blocked, wait_until

KEY = "shop/charge:m1:card"
OTHER_KEYS = ["shop/Charge:m1:card", f"{KEY} ", f"{KEY}\u200b"]
"""What a folding or trimming collation would take for the key."""


async def begin(
    harness: StoreHarness,
    token: str = "one",
    *,
    key: str = KEY,
    hold: timedelta = LONG,
    repeatable_for: timedelta | None = LONG,
) -> Standing:
    """Begin a call in a committed transaction."""
    program = harness.calls.begin(key, token=token, hold=hold, repeatable_for=repeatable_for)
    return await harness.source.run(program)


async def begin_and_vanish(harness: StoreHarness) -> None:
    """Begin a call and end without a word: what is left is in doubt."""
    assert await begin(harness, "gone", hold=SHORT) == Ours()
    await let_expire(harness)


async def answer(harness: StoreHarness, body: bytes = b"1", *, key: str = KEY) -> bytes:
    """Store an answer in a committed transaction."""
    return await harness.source.run(harness.calls.answer(key, body))


async def in_doubt(harness: StoreHarness) -> list[str]:
    """Return the keys in doubt."""
    return [one.key for one in await harness.source.run(harness.calls.in_doubt(limit=100))]


class CallStoreContract:
    """What every ``CallStore`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_a_call_is_held_by_one(self, harness: StoreHarness) -> None:
        """Others are told so, and it is not in doubt."""
        assert await begin(harness, "one") == Ours()
        assert await begin(harness, "two") == Held()
        assert await begin(harness, "one") == Ours()
        assert await in_doubt(harness) == []

    async def test_keys_that_only_look_alike_are_different(self, harness: StoreHarness) -> None:
        """They are compared byte by byte."""
        assert [await begin(harness, str(at), key=key) for at, key in enumerate([KEY, *OTHER_KEYS])] == [Ours()] * 4

    async def test_the_answer_is_returned_from_then_on(self, harness: StoreHarness) -> None:
        """Byte by byte, to whoever asks, however late; it is not in doubt."""
        await begin(harness)

        assert await answer(harness, b"\x00\xff") == b"\x00\xff"
        assert await begin(harness, "two", repeatable_for=None) == Answered(b"\x00\xff")
        assert await in_doubt(harness) == []

    async def test_the_first_answer_stays(self, harness: StoreHarness) -> None:
        """Of two that made the call, both return the same."""
        await begin_and_vanish(harness)
        await begin(harness, "two")

        assert await answer(harness, b"first") == b"first"
        assert await answer(harness, b"second") == b"first"

    async def test_an_answer_is_kept_even_if_the_call_was_forgotten_meanwhile(self, harness: StoreHarness) -> None:
        """It has been made."""
        assert await answer(harness) == b"1"
        assert await begin(harness) == Answered(b"1")

    async def test_a_call_in_doubt_is_made_again_while_that_is_safe(self, harness: StoreHarness) -> None:
        """By one."""
        await begin_and_vanish(harness)

        assert await in_doubt(harness) == [KEY]
        assert [await begin(harness, token) for token in ("one", "two")] == [Ours(), Held()]
        assert await in_doubt(harness) == []

    async def test_a_call_in_doubt_is_not_made_again_when_that_is_not_safe(self, harness: StoreHarness) -> None:
        """Because it was begun too long ago, or can never be repeated; nothing is changed by asking."""
        await begin_and_vanish(harness)

        for repeatable_for in (None, SHORT, timedelta(0), -LONG):
            assert isinstance(await begin(harness, repeatable_for=repeatable_for), InDoubt)
        assert await begin(harness) == Ours()

    async def test_being_made_again_makes_a_call_no_younger(self, harness: StoreHarness) -> None:
        """What counts is when the other side may first have seen the key."""
        await begin_and_vanish(harness)
        assert await begin(harness, "again", hold=SHORT) == Ours()
        await let_expire(harness)
        await let_expire(harness)

        standing = await begin(harness, repeatable_for=SHORT * 2)

        assert isinstance(standing, InDoubt)
        assert standing.age >= SHORT * 2

    async def test_a_hold_is_extended_and_given_up_by_its_token_only(self, harness: StoreHarness) -> None:
        """Somebody who was paused has no say any more."""
        await begin(harness, "one", hold=SHORT)
        await harness.source.run(harness.calls.hold(KEY, token="one", until=LONG))
        await let_expire(harness)
        await harness.source.run(harness.calls.hold(KEY, token="two", until=timedelta(0)))
        assert await begin(harness, "two") == Held()

        await harness.source.run(harness.calls.hold(KEY, token="one", until=timedelta(0)))

        assert await begin(harness, "two") == Ours()

    async def test_a_withdrawn_call_is_made_anew(self, harness: StoreHarness) -> None:
        """Nothing has happened, so it is not in doubt, whatever the other side remembers."""
        await begin(harness, "one", hold=SHORT)
        await harness.source.run(harness.calls.withdraw(KEY, token="one"))
        await let_expire(harness)

        assert await in_doubt(harness) == []
        assert await begin(harness, "two", repeatable_for=None) == Ours()

    async def test_a_call_is_withdrawn_by_its_token_only_and_an_answer_not_at_all(self, harness: StoreHarness) -> None:
        """What another made or found out stays."""
        await begin(harness, "one")
        await harness.source.run(harness.calls.withdraw(KEY, token="two"))
        assert await begin(harness, "two") == Held()
        await answer(harness)

        await harness.source.run(harness.calls.withdraw(KEY, token="one"))

        assert await begin(harness, "two") == Answered(b"1")

    async def test_a_call_in_doubt_may_be_allowed_anew(self, harness: StoreHarness) -> None:
        """By a person; one that is held, answered, or not there, is not in doubt."""
        await begin(harness, "one")
        await answer(harness, key="answered")
        for key in (KEY, "answered", "nowhere"):
            assert not await harness.source.run(harness.calls.allow(key))
            assert not await harness.source.run(harness.calls.in_doubt(limit=1, key=key))
        await harness.source.run(harness.calls.hold(KEY, token="one", until=timedelta(0)))

        assert await wait_until(lambda: harness.source.run(harness.calls.allow(KEY)))
        assert await begin(harness, repeatable_for=None) == Ours()

    async def test_an_answer_may_be_forgotten_by_a_person(self, harness: StoreHarness) -> None:
        """A call that is in doubt, or that somebody makes, has none."""
        await begin(harness, "one")
        await answer(harness, key="answered")
        for key, known in ((KEY, False), ("answered", True), ("nowhere", False)):
            assert await harness.source.run(harness.calls.allow(key, answered=True)) is known

        assert await begin(harness, "two") == Held()
        assert await begin(harness, "two", key="answered", repeatable_for=None) == Ours()

    async def test_the_oldest_in_doubt_come_first(self, harness: StoreHarness) -> None:
        """As many as are asked for, with their age."""
        for key in ("c", "a", "b"):
            assert await begin(harness, "gone", key=key, hold=SHORT) == Ours()
            await let_expire(harness)

        found = await harness.source.run(harness.calls.in_doubt(limit=2))

        assert [one.key for one in found] == ["c", "a"]
        assert found[0].age > found[1].age >= SHORT
        assert [one.key for one in await harness.source.run(harness.calls.in_doubt(limit=2, key="b"))] == ["b"]

    async def test_of_two_at_once_one_makes_the_call(self, harness: StoreHarness) -> None:
        """The other waits for the commit of the first, and for nothing else."""
        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            first = await tx.run(harness.calls.begin(KEY, token="one", hold=LONG, repeatable_for=LONG))
            second = tasks.create_task(begin(harness, "two"))
            await assert_blocked(second)

        assert (first, second.result()) == (Ours(), Held())

    async def test_a_call_whose_beginning_is_rolled_back_was_not_begun(self, harness: StoreHarness) -> None:
        """Nothing is held by what never happened."""
        async with asyncio.TaskGroup() as tasks, rolled_back(harness) as tx:
            await tx.run(harness.calls.begin(KEY, token="one", hold=LONG, repeatable_for=LONG))
            second = tasks.create_task(begin(harness, "two", repeatable_for=None))
            await assert_blocked(second)

        assert second.result() == Ours()

    async def test_an_answer_that_was_asked_for_again_is_removed_last(self, harness: StoreHarness) -> None:
        """A dead letter that fails at each replay may ask for it after years."""
        for key in ("asked", "forgotten"):
            await answer(harness, key=key)
            await let_expire(harness)
        assert await begin(harness, key="asked") == Answered(b"1")
        await let_expire(harness)

        assert await harness.source.run(harness.calls.purge(ANY_AGE, limit=1)) == 1
        assert await begin(harness, key="asked") == Answered(b"1")
        assert await begin(harness, key="forgotten") == Ours()

    async def test_a_purge_removes_old_answers_and_nothing_in_doubt(self, harness: StoreHarness) -> None:
        """A bounded number at a time, the oldest first."""
        await begin_and_vanish(harness)
        for number in range(5):
            await answer(harness, key=f"k{number}")
        assert await harness.source.run(harness.calls.purge(LONG, limit=100)) == 0
        await let_expire(harness)

        counts = [await harness.source.run(harness.calls.purge(ANY_AGE, limit=2)) for _ in range(4)]

        assert counts == [2, 2, 1, 0]
        assert await in_doubt(harness) == [KEY]
