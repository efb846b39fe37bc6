"""The rules of sagas at work: one per id, locked by whoever moves it on, due by the database's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import msgspec
import pytest

from pillarbox.saga.journal import SagaStatus
from pillarbox.saga.starting import new_saga
from pillarbox.saga.store import ChangedSaga, NewSaga, SagaKey, SagaRow
from pillarbox.testing.contracts.harness import (
    ANY_AGE,
    LONG,
    SHORT,
    StoreHarness,
    let_expire,
    needs_concurrent_writers,
    rolled_back,
)

SERVICE, SAGA = "shop", "shop/fulfil"
DEFINITION = f"{SAGA}@1"
STATE = '{"order_id":"o-1"}'
AT_ONCE = 10


def a_saga(saga_id: str, *, saga: str = SAGA, version: int = 1, state: str = STATE) -> NewSaga:
    """Return a saga to be started, of the service in its name."""
    return new_saga(
        SagaKey(saga, saga_id),
        service=saga.partition("/")[0],
        version=version,
        state=state,
        content_type="application/json",
    )


async def start(harness: StoreHarness, *sagas: NewSaga) -> set[str]:
    """Start ``sagas`` in a committed transaction; return the ids that were new."""
    return {key.saga_id for key in await harness.source.run(harness.sagas.start(sagas))}


async def due(harness: StoreHarness, *definitions: str, service: str = SERVICE, limit: int = 100) -> list[str]:
    """Return the ids that are due."""
    wanted = definitions or (DEFINITION,)
    return [row.key.saga_id for row in await harness.source.run(harness.sagas.due(service, wanted, limit=limit))]


async def look(harness: StoreHarness, saga_id: str, *, saga: str = SAGA) -> SagaRow:
    """Return a saga as it stands."""
    (row,) = await harness.source.run(harness.sagas.lock([SagaKey(saga, saga_id)]))
    return row


def changed(row: SagaRow, *, status: SagaStatus = SagaStatus.RUNNING, due_in: timedelta | None = LONG) -> ChangedSaga:
    """Return what becomes of ``row``: due again in a while, or not at all."""
    return ChangedSaga(
        key=row.key,
        version=row.version,
        status=status,
        steps="",
        state=row.state,
        journal=row.journal,
        due_us=None if due_in is None else row.now_us + due_in // timedelta(microseconds=1),
    )


async def save_unlocked(harness: StoreHarness, row: SagaRow, *, serial: int) -> int | None:
    """Write that ``row`` is late, without a lock; return the database's clock if it was written."""
    late = msgspec.structs.replace(changed(row), state='{"late":1}')
    program = harness.sagas.save_unlocked(late, serial=serial)
    if program is None:
        pytest.skip("this store writes nothing without a lock: one statement cannot tell whether it has")
    return await harness.source.run_single(program)


async def move(
    harness: StoreHarness,
    saga_id: str,
    status: SagaStatus,
    *,
    due_in: timedelta | None = None,
    saga: str = SAGA,
) -> None:
    """Move a saga to ``status``."""
    row = await look(harness, saga_id, saga=saga)
    await harness.source.run(harness.sagas.save([changed(row, status=status, due_in=due_in)]))


class SagaStoreContract:
    """What every ``SagaStore`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_a_saga_starts_once_and_is_due_at_once(self, harness: StoreHarness) -> None:
        """What was there before stays as it is."""
        assert await start(harness, a_saga("o-1")) == {"o-1"}
        assert await start(harness, a_saga("o-1", state="{}"), a_saga("o-2")) == {"o-2"}
        assert await start(harness) == set()

        assert (await look(harness, "o-1")).state == STATE
        assert sorted(await due(harness)) == ["o-1", "o-2"]

    async def test_of_many_starts_at_once_one_is_the_first(self, harness: StoreHarness) -> None:
        """Each is told whether it was it."""
        told: list[set[str]] = []

        async def begin() -> None:
            told.append(await start(harness, a_saga("o-1"), a_saga("o-2")))

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(begin())

        assert sorted(saga_id for ids in told for saga_id in ids) == ["o-1", "o-2"]
        assert sorted(await due(harness)) == ["o-1", "o-2"]

    async def test_an_id_belongs_to_its_definition_and_is_spelled_exactly_so(self, harness: StoreHarness) -> None:
        """Of another definition it is another saga; case, accents and blanks at its end count."""
        ids = ["o-1", "O-1", "o-1 ", "ö-1"]

        assert await start(harness, *map(a_saga, ids)) == set(ids)
        assert await start(harness, a_saga("o-1", saga="shop/return")) == {"o-1"}
        assert (await look(harness, "o-1", saga="shop/return")).key == SagaKey("shop/return", "o-1")

    async def test_a_start_that_is_rolled_back_never_was(self, harness: StoreHarness) -> None:
        """It is part of the caller's transaction."""
        async with rolled_back(harness) as tx:
            await tx.run(harness.sagas.start([a_saga("o-1")]))

        assert await due(harness) == []
        assert await start(harness, a_saga("o-1")) == {"o-1"}

    async def test_state_and_journal_are_kept_as_they_are(self, harness: StoreHarness) -> None:
        """Texts of any script and length."""
        state = msgspec.json.encode({"words": "Grüße, 你好 🚚 \"'%_!\\ \n", "long": "x" * 100_000}).decode()
        one = a_saga("o-1", state=state)

        await start(harness, one)

        row = await look(harness, "o-1")
        assert (row.state, row.journal, row.version, row.serial) == (state, one.journal, 1, 0)
        assert (row.content_type, row.correlation_id) == ("application/json", "o-1")
        await harness.source.run(harness.sagas.save([changed(row)]))
        assert (await look(harness, "o-1")).state == state

    async def test_what_nobody_has_changed_since_is_written_without_a_lock(self, harness: StoreHarness) -> None:
        """The serial number tells; the database's clock is told."""
        await start(harness, a_saga("o-1"), a_saga("o-2"))
        row, other = await look(harness, "o-1"), await look(harness, "o-2")

        first = await save_unlocked(harness, row, serial=row.serial)
        second = await save_unlocked(harness, row, serial=row.serial + 1)

        assert first is not None
        assert second is not None
        assert row.now_us <= first <= second
        written = await look(harness, "o-1")
        assert (written.serial, written.state) == (2, '{"late":1}')
        assert (await look(harness, "o-2")).serial == other.serial

    async def test_what_was_changed_or_is_gone_is_not_written_without_a_lock(self, harness: StoreHarness) -> None:
        """Whoever comes too late changes nothing."""
        await start(harness, a_saga("o-1"))
        row = await look(harness, "o-1")
        await harness.source.run(harness.sagas.save([changed(row)]))

        assert await save_unlocked(harness, row, serial=row.serial) is None
        gone = msgspec.structs.replace(row, key=SagaKey(SAGA, "o-9"))
        assert await save_unlocked(harness, gone, serial=row.serial) is None

        after = await look(harness, "o-1")
        assert (after.serial, after.state) == (1, row.state)

    async def test_lock_returns_what_is_there_in_the_order_of_keys(self, harness: StoreHarness) -> None:
        """An id is asked for together with its definition."""
        await start(harness, a_saga("b"), a_saga("a"), a_saga("c", saga="shop/return"))
        keys = [SagaKey(SAGA, "b"), SagaKey(SAGA, "a"), SagaKey(SAGA, "c"), SagaKey(SAGA, "gone")]

        rows = await harness.source.run(harness.sagas.lock(keys))

        assert [row.key.saga_id for row in rows] == ["a", "b"]
        assert list(await harness.source.run(harness.sagas.lock([]))) == []

    async def test_who_locks_waits_for_who_has_locked(self, harness: StoreHarness) -> None:
        """So that eight who change one saga make eight changes in a row."""
        await start(harness, a_saga("o-1"))

        async def change() -> None:
            async with harness.source.begin() as tx:
                (row,) = await tx.run(harness.sagas.lock([SagaKey(SAGA, "o-1")]))
                after = msgspec.structs.replace(row, state=f"{row.state}x")
                await tx.run(harness.sagas.save([changed(after)]))

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(change())

        row = await look(harness, "o-1")
        assert (row.serial, row.state) == (8, STATE + "x" * 8)

    async def test_what_another_has_locked_is_left_out_of_what_is_due(self, harness: StoreHarness) -> None:
        """Nobody waits for it."""
        needs_concurrent_writers(harness)
        await start(harness, a_saga("o-1"), a_saga("o-2"))

        async with harness.source.begin() as tx:
            await tx.run(harness.sagas.lock([SagaKey(SAGA, "o-1")]))
            assert await due(harness) == ["o-2"]

        assert sorted(await due(harness)) == ["o-1", "o-2"]

    async def test_what_is_of_another_service_or_version_is_not_due(self, harness: StoreHarness) -> None:
        """A box runs what it knows."""
        await start(harness, a_saga("o-1"), a_saga("o-2", version=2), a_saga("o-3", saga="billing/fulfil"))
        await start(harness, a_saga("o-4", saga="shop/return"))

        assert await due(harness) == ["o-1"]
        assert sorted(await due(harness, DEFINITION, f"{SAGA}@2")) == ["o-1", "o-2"]
        assert await due(harness, "billing/fulfil@1", service="billing") == ["o-3"]
        assert await due(harness, f"{SAGA}@3") == []

    async def test_the_longest_due_comes_first(self, harness: StoreHarness) -> None:
        """And no more than were asked for."""
        await start(harness, a_saga("late"))
        await let_expire(harness)
        await start(harness, a_saga("later"))

        assert await due(harness, limit=1) == ["late"]
        assert await due(harness) == ["late", "later"]

    async def test_what_is_not_due_yet_is_due_when_its_time_has_come(self, harness: StoreHarness) -> None:
        """By the database's clock; ``None`` is never."""
        await start(harness, a_saga("soon"), a_saga("in a while"), a_saga("never"))
        for saga_id, due_in in (("soon", SHORT), ("in a while", LONG), ("never", None)):
            await move(harness, saga_id, SagaStatus.RUNNING, due_in=due_in)

        await let_expire(harness)

        assert await due(harness) == ["soon"]

    async def test_saving_raises_serial_numbers_one_by_one_and_changes_nobody_else(self, harness: StoreHarness) -> None:
        """Many in one statement, of several definitions."""
        await start(harness, a_saga("o-1"), a_saga("o-2"), a_saga("o-3"), a_saga("o-1", saga="shop/return"))
        rows = [await look(harness, "o-1"), await look(harness, "o-2")]

        await harness.source.run(harness.sagas.save([changed(row, due_in=None) for row in rows]))
        await harness.source.run(harness.sagas.save([changed(rows[0], due_in=None)]))
        await harness.source.run(harness.sagas.save([]))

        serials = [(await look(harness, saga_id)).serial for saga_id in ("o-1", "o-2", "o-3")]
        assert serials == [2, 1, 0]
        assert (await look(harness, "o-1", saga="shop/return")).serial == 0
        assert await due(harness) == ["o-3"]

    async def test_saving_another_version_moves_a_saga_to_who_runs_that(self, harness: StoreHarness) -> None:
        """Its state is of that version from then on."""
        await start(harness, a_saga("o-1"))
        row = msgspec.structs.replace(await look(harness, "o-1"), version=2)

        await harness.source.run(harness.sagas.save([changed(row, due_in=timedelta(0))]))

        assert (await look(harness, "o-1")).version == 2
        assert await due(harness) == []
        assert await due(harness, f"{SAGA}@2") == ["o-1"]

    async def test_what_is_postponed_is_not_due_and_else_as_it_was(self, harness: StoreHarness) -> None:
        """Its journal is left alone: it may be what could not be read."""
        await start(harness, a_saga("o-1"), a_saga("o-2"), a_saga("o-2", saga="shop/return"))
        before = await look(harness, "o-1")

        postponed = {SagaKey(SAGA, "o-1"): LONG, SagaKey("shop/return", "o-2"): LONG}
        await harness.source.run(harness.sagas.save([], postponed=postponed))

        after = await look(harness, "o-1")
        assert await due(harness, DEFINITION, "shop/return@1") == ["o-2"]
        assert (after.journal, after.state, after.version) == (before.journal, before.state, before.version)

    async def test_what_was_postponed_is_written_without_a_lock_by_who_knew_it_before(
        self, harness: StoreHarness
    ) -> None:
        """Who could not read it has changed nothing of it."""
        await start(harness, a_saga("o-1"))
        row = await look(harness, "o-1")
        await harness.source.run(harness.sagas.save([], postponed={row.key: LONG}))

        assert await save_unlocked(harness, row, serial=row.serial) is not None

        after = await look(harness, "o-1")
        assert (after.serial, after.state) == (1, '{"late":1}')

    async def test_next_due_tells_how_long_nothing_is(self, harness: StoreHarness) -> None:
        """Of what the asker runs; not above zero when something is due."""
        assert await self._next_due(harness) is None
        await start(harness, a_saga("o-1"), a_saga("o-2"), a_saga("o-3", version=2))

        now = await self._next_due(harness)
        await move(harness, "o-1", SagaStatus.RUNNING, due_in=LONG)
        await move(harness, "o-2", SagaStatus.RUNNING, due_in=2 * LONG)
        later = await self._next_due(harness)
        await move(harness, "o-1", SagaStatus.COMPLETED)
        await move(harness, "o-2", SagaStatus.COMPLETED)

        assert now is not None
        assert now <= timedelta(0)
        assert later is not None
        assert LONG / 2 < later <= LONG
        assert await self._next_due(harness) is None

    async def test_only_what_ended_long_enough_ago_is_purged(self, harness: StoreHarness) -> None:
        """What needs attention, runs or is being undone is kept; and what is another service's."""
        for status in SagaStatus:
            await start(harness, a_saga(status), a_saga(status, saga="billing/fulfil"))
            await move(harness, status, status)
            await move(harness, status, status, saga="billing/fulfil")

        young = await self._purge(harness, older_than=LONG)
        await let_expire(harness)
        purged = await self._purge(harness, older_than=ANY_AGE)

        kept = [row.key.saga_id for row in await self._all(harness, SAGA)]
        assert (young, purged) == (0, 2)
        assert kept == ["compensating", "needs_attention", "running"]
        assert len(await self._all(harness, "billing/fulfil")) == len(SagaStatus)
        assert await self._purge(harness, older_than=ANY_AGE) == 0

    async def test_a_purge_removes_no_more_than_it_was_told(self, harness: StoreHarness) -> None:
        """So that its transaction stays short."""
        ids = ["o-1", "o-2", "o-3"]
        await start(harness, *map(a_saga, ids))
        for saga_id in ids:
            await move(harness, saga_id, SagaStatus.COMPENSATED)
        await let_expire(harness)

        purged = [await self._purge(harness, older_than=ANY_AGE, limit=2) for _ in range(3)]

        assert purged == [2, 1, 0]

    async def _next_due(self, harness: StoreHarness) -> timedelta | None:
        return await harness.source.run_single(harness.sagas.next_due(SERVICE, [DEFINITION]))

    async def _purge(self, harness: StoreHarness, *, older_than: timedelta, limit: int = 100) -> int:
        return await harness.source.run(harness.sagas.purge(SERVICE, older_than, limit=limit))

    async def _all(self, harness: StoreHarness, saga: str) -> Sequence[SagaRow]:
        return await harness.source.run(harness.sagas.lock([SagaKey(saga, status) for status in SagaStatus]))
