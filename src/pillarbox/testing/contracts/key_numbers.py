"""The rules of the counters of numbered destinations."""

from __future__ import annotations

import asyncio

import pytest

from pillarbox.message import Number, number_of
from pillarbox.outbox import record_of
from pillarbox.testing.contracts.harness import (
    TOPIC,
    StoreHarness,
    append,
    make_message,
    make_record,
    needs_concurrent_writers,
    read_all,
    rolled_back,
)
from pillarbox.testing.waiting import assert_blocked
from pillarbox.transaction import Program

LINE, OTHER = (TOPIC, "k"), ("queue:payments", "k")


def take(harness: StoreHarness, **counts: int) -> Program[dict[str, Number]]:
    """Take numbers of keys of one topic."""
    taken = yield from harness.numbers.take({(TOPIC, key): count for key, count in counts.items()})
    return {key: taken[TOPIC, key] for key in counts}


class KeyNumbersContract:
    """What every ``KeyNumbers`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_numbers_begin_at_1_and_have_no_gaps(self, harness: StoreHarness) -> None:
        """Each line counts for itself."""
        first = await harness.source.run(take(harness, k=2, o=1))
        then = await harness.source.run(take(harness, o=3, k=1))

        assert {key: number.number for key, number in first.items()} == {"k": 2, "o": 1}
        assert {key: number.number for key, number in then.items()} == {"o": 4, "k": 3}
        assert {key: number.epoch for key, number in then.items()} == {key: one.epoch for key, one in first.items()}

    async def test_a_key_counts_for_each_destination(self, harness: StoreHarness) -> None:
        """The same key of another destination is another line, and keys are compared byte by byte."""
        alike = [LINE, OTHER, (TOPIC, "K"), (TOPIC, "k "), (TOPIC, "k\u200b")]

        taken = await harness.source.run(harness.numbers.take(dict.fromkeys(alike, 1)))

        assert {line: number.number for line, number in taken.items()} == dict.fromkeys(alike, 1)

    async def test_what_is_rolled_back_was_not_taken(self, harness: StoreHarness) -> None:
        """So no gap is left."""
        await harness.source.run(take(harness, k=1))
        async with rolled_back(harness) as tx:
            await tx.run(take(harness, k=5))

        assert (await harness.source.run(take(harness, k=1)))["k"].number == 2

    async def test_who_takes_of_the_same_key_waits_for_the_other_one(self, harness: StoreHarness) -> None:
        """Else both would have the same numbers, or a roll-back would leave a gap."""
        needs_concurrent_writers(harness)
        async with asyncio.TaskGroup() as group, harness.source.begin() as tx:
            await tx.run(take(harness, k=2))
            second = group.create_task(harness.source.run(take(harness, k=1)))
            await assert_blocked(second)

        assert second.result()["k"].number == 3

    async def test_a_new_epoch_begins_at_1_and_is_later(self, harness: StoreHarness) -> None:
        """However often it is begun."""
        before = (await harness.source.run(take(harness, k=7, o=1)))["k"]

        assert await harness.source.run(harness.numbers.begin_epoch()) == 2
        once = (await harness.source.run(take(harness, k=1)))["k"]
        await harness.source.run(harness.numbers.begin_epoch())
        twice = (await harness.source.run(take(harness, k=1)))["k"]

        assert [once.number, twice.number] == [1, 1]
        assert before.epoch < once.epoch < twice.epoch

    async def test_numbered_records_bear_their_numbers_in_the_order_given(self, harness: StoreHarness) -> None:
        """In headers, so that they travel; records without numbers are left as they are."""
        numbered = [record_of(make_message(f"m{at}", key), numbered=True) for at, key in enumerate("kokk")]
        await append(harness, *numbered, make_record("plain"))
        await append(harness, record_of(make_message("m4"), numbered=True))

        found = {record.message.id: number_of(record.message) for record in await read_all(harness)}

        assert {identity: number and number.number for identity, number in found.items()} == {
            "m0": 1,
            "m1": 1,
            "m2": 2,
            "m3": 3,
            "plain": None,
            "m4": 4,
        }
