"""The rules of the outbox as producers see it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from msgspec import structs

from pillarbox.message import Message
from pillarbox.outbox import OutboxState, record_of
from pillarbox.testing.contracts.harness import (
    LONG,
    TOPIC,
    StoreHarness,
    append,
    keys_apart,
    make_message,
    make_record,
    needs_concurrent_writers,
    read_all,
    read_ids,
    rolled_back,
)
from pillarbox.testing.waiting import assert_blocked, wait_until

EMPTY = OutboxState(pending=0, oldest_for=None, scheduled=0, parked=0, held=0)


class OutboxStoreContract:
    """What every ``OutboxStore`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_a_committed_record_is_read(self, harness: StoreHarness) -> None:
        """Committed means to be published."""
        await append(harness, make_record("m1"))

        assert await read_ids(harness) == ["m1"]

    async def test_a_rolled_back_record_is_never_read(self, harness: StoreHarness) -> None:
        """Rolled back means that it never was."""
        async with rolled_back(harness) as tx:
            await tx.run(harness.outbox.append([make_record("ghost")]))

        assert await read_ids(harness) == []

    async def test_a_record_of_a_rolled_back_savepoint_is_never_read(self, harness: StoreHarness) -> None:
        """A savepoint takes back what was appended in it, and nothing else."""
        async with harness.source.begin() as tx:
            await tx.run(harness.outbox.append([make_record("before")]))
            async with tx.connection.begin_nested() as savepoint:
                await tx.run(harness.outbox.append([make_record("ghost")]))
                await savepoint.rollback()
            await tx.run(harness.outbox.append([make_record("after")]))

        assert await read_ids(harness) == ["before", "after"]

    async def test_a_record_of_a_thread_s_transaction_is_read(self, harness: StoreHarness) -> None:
        """Synchronous callers run the same program."""

        def publish() -> None:
            with harness.source.begin_sync() as tx:
                tx.run(harness.outbox.append([make_record("m1")]))

        await asyncio.to_thread(publish)

        assert await read_ids(harness) == ["m1"]

    async def test_an_open_transaction_s_record_is_not_read(self, harness: StoreHarness) -> None:
        """Nothing is published ahead of its commit."""
        needs_concurrent_writers(harness)
        async with harness.source.begin() as tx:
            await tx.run(harness.outbox.append([make_record("m1")]))

            assert await read_ids(harness) == []

    async def test_one_append_keeps_the_order_given(self, harness: StoreHarness) -> None:
        """Whatever their keys are."""
        ids = [f"m{number}" for number in range(50)]

        await append(harness, *(make_record(identity, f"k{int(identity[1:]) % 7}") for identity in ids))

        assert await read_ids(harness) == ids

    async def test_appending_nothing_is_harmless(self, harness: StoreHarness) -> None:
        """An empty list is a list."""
        await append(harness)

        assert await harness.source.run(harness.outbox.state()) == EMPTY

    @pytest.mark.parametrize(
        "message",
        [
            make_message("every-byte", body=bytes(range(256)) * 4096),
            make_message("empty", None, body=b""),
            structs.replace(make_message("headers"), headers={"x-name": "Łódź 😀", "x-empty": "", "x-quote": "\"'\\"}),
            structs.replace(make_message("no-headers"), headers={}),
            make_message("unicode", "ключ 😀 'quoted' \\ %s :x"),
            make_message("long", "k" * 500, destination="queue:payments"),
        ],
        ids=lambda message: message.id,
    )
    async def test_a_message_comes_back_as_it_was_written(self, harness: StoreHarness, message: Message) -> None:
        """The body is opaque bytes; headers and keys are any text."""
        await append(harness, record_of(message))

        (found,) = await read_all(harness)

        assert found.message == message
        assert found.slot == record_of(message).slot

    # --- order ------------------------------------------------------------------------------------------------------

    async def test_a_second_writer_of_a_key_waits_for_the_first_to_end(self, harness: StoreHarness) -> None:
        """So the record with the lower position is committed first."""

        async def write_second() -> None:
            async with harness.source.begin() as tx:
                await tx.run(harness.outbox.append([make_record("second")]))

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            await tx.run(harness.outbox.append([make_record("first")]))
            task = tasks.create_task(write_second())
            await assert_blocked(task)

        assert await read_ids(harness) == ["first", "second"]

    async def test_the_order_of_a_key_is_that_of_publishing_not_of_beginning(self, harness: StoreHarness) -> None:
        """A transaction that began early has no claim on an early place."""
        needs_concurrent_writers(harness)
        async with harness.source.begin() as early:
            await early.run(harness.outbox.append([make_record("elsewhere", keys_apart(2)[1])]))
            await append(harness, make_record("late", keys_apart(2)[0]))
            await early.run(harness.outbox.append([make_record("early", keys_apart(2)[0])]))

        assert [one for one in await read_ids(harness) if one != "elsewhere"] == ["late", "early"]

    async def test_a_writer_does_not_wait_for_another_key(self, harness: StoreHarness) -> None:
        """Only writers of the same key queue up."""
        needs_concurrent_writers(harness)
        one, other = keys_apart(2)
        async with harness.source.begin() as tx:
            await tx.run(harness.outbox.append([make_record("m1", one)]))
            await append(harness, make_record("m2", other))

            assert await read_ids(harness) == ["m2"]

    async def test_a_record_without_a_key_waits_for_nobody(self, harness: StoreHarness) -> None:
        """There is no order to be kept."""
        needs_concurrent_writers(harness)
        async with harness.source.begin() as tx:
            await tx.run(harness.outbox.append([make_record("same", None)]))
            await append(harness, make_record("same", None))

            assert len(await read_all(harness)) == 1

    async def test_a_record_that_waits_for_its_key_takes_its_position_after_the_wait(
        self, harness: StoreHarness
    ) -> None:
        """A position taken before the lock would let it overtake what another key published meanwhile, or its own."""
        needs_concurrent_writers(harness)
        key, other = keys_apart(2)
        async with asyncio.TaskGroup() as tasks, harness.source.begin() as first:
            await first.run(harness.outbox.append([make_record("first", key)]))
            second = tasks.create_task(append(harness, make_record("second", key)))
            await assert_blocked(second)
            await append(harness, make_record("between", other))

        assert await read_ids(harness) == ["first", "between", "second"]

    async def test_no_record_appears_before_one_of_its_key_that_was_seen(self, harness: StoreHarness) -> None:
        """Eight writers, three keys, some rolling back: what a reader has seen of a key only grows at its end."""
        keys = keys_apart(3)

        async def write(writer: int) -> None:
            for turn in range(6):
                try:
                    async with harness.source.begin() as tx:
                        await tx.run(harness.outbox.state())
                        record = make_record(f"{writer}-{turn}", keys[(writer + turn) % 3])
                        await tx.run(harness.outbox.append([record]))
                        await tx.run(harness.outbox.state())
                        if (writer + turn) % 5 == 0:
                            raise ZeroDivisionError
                except ZeroDivisionError:
                    continue

        writers: list[asyncio.Task[None]] = []

        async def look_on() -> None:
            seen: dict[str | None, list[str]] = {key: [] for key in keys}
            while True:
                finished = all(task.done() for task in writers)
                for key, before in seen.items():
                    now = [one.message.id for one in await read_all(harness) if one.message.key == key]
                    assert now[: len(before)] == before
                    seen[key] = now
                if finished:
                    return

        async with asyncio.TaskGroup() as tasks:
            writers += [tasks.create_task(write(number)) for number in range(8)]
            tasks.create_task(look_on())

        assert len(await read_all(harness)) == sum((writer + turn) % 5 != 0 for writer in range(8) for turn in range(6))

    async def test_two_thousand_keys_fit_into_one_append(self, harness: StoreHarness) -> None:
        """Lock tables are finite."""
        await append(harness, *(make_record(f"m{number}", f"k{number}") for number in range(2000)))

        assert (await harness.source.run(harness.outbox.state())).pending == 2000

    async def test_large_appends_in_opposite_order_do_not_deadlock(self, harness: StoreHarness) -> None:
        """Within one append keys are locked in an order of their own."""

        async def publish(numbers: Sequence[int], writer: str) -> None:
            await append(harness, *(make_record(f"{writer}{number}", f"k{number}") for number in numbers))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish(range(2000), "up"))
            tasks.create_task(publish(range(1999, -1, -1), "down"))
            tasks.create_task(publish(range(500, 1500), "middle"))

        assert (await harness.source.run(harness.outbox.state())).pending == 5000

    # --- delays -----------------------------------------------------------------------------------------------------

    async def test_a_delayed_record_is_not_read(self, harness: StoreHarness) -> None:
        """It waits outside until a relay releases it."""
        await append(harness, replace(make_record("later"), due_in=LONG), make_record("now"))

        assert await read_ids(harness) == ["now"]

    async def test_a_delayed_record_of_a_rolled_back_transaction_is_gone(self, harness: StoreHarness) -> None:
        """Scheduling is part of the transaction."""
        async with rolled_back(harness) as tx:
            await tx.run(harness.outbox.append([replace(make_record("ghost"), due_in=LONG)]))

        assert await harness.source.run(harness.outbox.state()) == EMPTY

    async def test_a_delay_of_zero_is_no_delay(self, harness: StoreHarness) -> None:
        """It is due at once."""
        await append(harness, replace(make_record("m1"), due_in=timedelta(0)))

        assert await read_ids(harness) == ["m1"]

    # --- what waits -------------------------------------------------------------------------------------------------

    async def test_the_state_counts_what_waits(self, harness: StoreHarness) -> None:
        """Pending and scheduled are told apart."""
        await append(harness, make_record("m1"), make_record("m2"), replace(make_record("m3"), due_in=LONG))

        state = await harness.source.run(harness.outbox.state())

        assert (state.pending, state.scheduled, state.parked, state.held) == (2, 1, 0, 0)

    async def test_the_state_tells_the_age_of_the_oldest_record(self, harness: StoreHarness) -> None:
        """A newer record does not make it younger."""
        await append(harness, make_record("old", TOPIC))

        async def is_older() -> bool:
            state = await harness.source.run(harness.outbox.state())
            return state.oldest_for is not None and state.oldest_for > timedelta(milliseconds=10)

        await wait_until(is_older)
        await append(harness, make_record("new"))

        assert await is_older()
