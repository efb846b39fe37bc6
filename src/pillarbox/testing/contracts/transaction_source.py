"""The rules of a store as the source of transactions."""

from __future__ import annotations

import asyncio

import pytest

from pillarbox.errors import ConflictError
from pillarbox.testing.contracts.harness import (
    StoreHarness,
    keys_apart,
    make_record,
    needs_concurrent_writers,
    read_ids,
)
from pillarbox.testing.waiting import assert_blocked
from pillarbox.transaction import Program

CONSUMER = "shop/probe"


class TransactionSourceContract:
    """What every ``TransactionSource`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_leaving_the_block_commits(self, harness: StoreHarness) -> None:
        """Everything that was written in it."""
        async with harness.source.begin() as tx:
            await tx.run(harness.inbox.record(CONSUMER, ["m1"]))
            await tx.run(harness.inbox.record(CONSUMER, ["m2"]))

        assert await known(harness, "m1", "m2") == {"m1", "m2"}

    async def test_an_exception_rolls_back_and_propagates(self, harness: StoreHarness) -> None:
        """Nothing of the transaction remains, and the next one works."""

        async def fail() -> None:
            async with harness.source.begin() as tx:
                await tx.run(harness.inbox.record(CONSUMER, ["m1"]))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()

        assert await known(harness, "m1") == set()

    async def test_a_cancellation_rolls_back_and_leaves_the_source_usable(self, harness: StoreHarness) -> None:
        """However often it happens: no connection is leaked, no lock kept."""
        for _ in range(25):
            started = asyncio.Event()

            async def write_and_hang(started: asyncio.Event = started) -> None:
                async with harness.source.begin() as tx:
                    await tx.run(harness.inbox.record(CONSUMER, ["m1"]))
                    started.set()
                    await asyncio.Event().wait()

            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(write_and_hang())
                await started.wait()
                task.cancel()

        assert await known(harness, "m1") == set()

    async def test_a_cancellation_within_a_statement_leaves_the_source_usable(self, harness: StoreHarness) -> None:
        """Its connection is not used again."""
        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            await tx.run(harness.inbox.record(CONSUMER, ["m1"]))
            waiting = tasks.create_task(harness.source.run(harness.inbox.record(CONSUMER, ["m1"])))
            await assert_blocked(waiting)
            waiting.cancel()
            await asyncio.wait({waiting})

        assert waiting.cancelled()
        assert await known(harness, "m1") == {"m1"}

    async def test_a_program_s_writes_are_seen_by_the_connection_of_its_transaction(
        self, harness: StoreHarness
    ) -> None:
        """A handler writes on the connection, we write through programs: one transaction."""
        async with harness.source.begin() as tx:
            assert tx.connection.in_transaction()
            await tx.run(harness.inbox.record(CONSUMER, ["m1"]))
            await tx.connection.rollback()

        assert await known(harness, "m1") == set()

    async def test_run_commits_its_program(self, harness: StoreHarness) -> None:
        """In a transaction of its own."""
        assert set(await harness.source.run(harness.inbox.record(CONSUMER, ["m1"]))) == {"m1"}
        assert await known(harness, "m1") == {"m1"}

    async def test_run_rolls_back_a_program_that_raises(self, harness: StoreHarness) -> None:
        """Including what it wrote before."""

        def fail() -> Program[None]:
            yield from harness.inbox.record(CONSUMER, ["m1"])
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await harness.source.run(fail())

        assert await known(harness, "m1") == set()

    async def test_a_single_statement_commits_by_itself(self, harness: StoreHarness) -> None:
        """One round trip."""
        await harness.source.run(harness.inbox.record(CONSUMER, ["m1"]))
        await harness.source.run_single(harness.inbox.forget(CONSUMER, ["m1"]))
        assert await known(harness, "m1") == set()

    async def test_run_single_refuses_a_second_statement(self, harness: StoreHarness) -> None:
        """The first is committed by then, so it must not look like a transaction."""

        def two() -> Program[None]:
            yield from harness.inbox.record(CONSUMER, ["m1"])
            yield from harness.inbox.record(CONSUMER, ["m2"])

        with pytest.raises(RuntimeError):
            await harness.source.run_single(two())

        assert await known(harness, "m2") == set()

    async def test_a_thread_s_transaction_commits_and_rolls_back_alike(self, harness: StoreHarness) -> None:
        """Handlers that are plain functions run there."""

        def commit() -> str:
            with harness.source.begin_sync() as tx:
                tx.run(harness.inbox.record(CONSUMER, ["kept"]))
                assert tx.connection.in_transaction()
                return tx.dialect_name

        def fail() -> None:
            with harness.source.begin_sync() as tx:
                tx.run(harness.inbox.record(CONSUMER, ["lost"]))
                raise ZeroDivisionError

        dialect = await asyncio.to_thread(commit)
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(fail)

        assert await known(harness, "kept", "lost") == {"kept"}
        async with harness.source.begin() as tx:
            assert tx.dialect_name == dialect

    async def test_a_thread_waits_for_an_open_transaction_with_the_same_write(self, harness: StoreHarness) -> None:
        """Both kinds work on one database."""

        def duplicate() -> set[str]:
            with harness.source.begin_sync() as tx:
                return set(tx.run(harness.inbox.record(CONSUMER, ["m1"])))

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            await tx.run(harness.inbox.record(CONSUMER, ["m1"]))
            waiting = tasks.create_task(asyncio.to_thread(duplicate))
            await assert_blocked(waiting)

        assert waiting.result() == set()

    async def test_forty_transactions_at_once_all_commit(self, harness: StoreHarness) -> None:
        """They wait for connections and for each other; none is turned away."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(40):
                tasks.create_task(harness.source.run(harness.inbox.record(CONSUMER, [f"m{number}", "same"])))

        ids = [f"m{number}" for number in range(40)]
        assert await known(harness, *ids) == set(ids)

    async def test_writes_are_seen_by_others_only_after_the_commit(self, harness: StoreHarness) -> None:
        """Read committed."""
        needs_concurrent_writers(harness)
        async with harness.source.begin() as tx:
            await tx.run(harness.inbox.record(CONSUMER, ["m1"]))
            assert await known(harness, "m1") == set()

        assert await known(harness, "m1") == {"m1"}

    async def test_a_transaction_sees_what_was_committed_since_its_last_statement(self, harness: StoreHarness) -> None:
        """Programs rely on it: a lock first, then a look."""
        needs_concurrent_writers(harness)
        async with harness.source.begin() as tx:
            assert set(await tx.run(harness.claims.processed(CONSUMER, ["m1"]))) == set()
            await harness.source.run(harness.inbox.record(CONSUMER, ["m1"]))

            assert set(await tx.run(harness.claims.processed(CONSUMER, ["m1"]))) == {"m1"}

    async def test_an_error_of_somebody_else_s_is_left_as_it_is(self, harness: StoreHarness) -> None:
        """Only the driver's are translated."""
        error = ValueError("not the database's")

        assert harness.source.translate(error) is error

    async def test_a_deadlock_is_a_conflict(self, harness: StoreHarness) -> None:
        """The loser is rolled back whole and may try again; the winner commits."""
        needs_concurrent_writers(harness)
        keys = keys_apart(2)
        both_hold_one = asyncio.Barrier(2)

        async def publish(writer: str, first: str, second: str) -> str:
            try:
                async with harness.source.begin() as tx:
                    await tx.run(harness.outbox.append([make_record(f"{writer}-1", first)]))
                    await both_hold_one.wait()
                    await tx.run(harness.outbox.append([make_record(f"{writer}-2", second)]))
            except Exception as error:
                return type(harness.source.translate(error)).__name__
            return writer

        async with asyncio.TaskGroup() as tasks:
            ways = [("a", *keys), ("b", *reversed(keys))]
            ends = [tasks.create_task(publish(*way)) for way in ways]

        winner, loser = sorted((task.result() for task in ends), key=len)
        assert loser == ConflictError.__name__
        assert sorted(await read_ids(harness)) == [f"{winner}-1", f"{winner}-2"]


async def known(harness: StoreHarness, *ids: str) -> set[str]:
    """Ask in another transaction which ids were committed."""
    return set(await harness.source.run(harness.claims.processed(CONSUMER, ids)))
