"""The rules of what people and checks ask about sagas."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from pillarbox.saga.journal import Entry, SagaStatus, decode_journal, encode_journal
from pillarbox.saga.store import SagaFilter, SagaKey
from pillarbox.testing.contracts.harness import ANY_AGE, LONG, StoreHarness, let_expire
from pillarbox.testing.contracts.sagas import SAGA, STATE, a_saga, changed, look, move, start

ALL = SagaFilter()


async def find(harness: StoreHarness, wanted: SagaFilter = ALL, *, limit: int = 100) -> list[str]:
    """Return the ids of those that are meant."""
    return [one.saga_id for one in await harness.source.run(harness.saga_archive.find(wanted, limit=limit))]


async def note(harness: StoreHarness, saga_id: str, *, steps: str = "", what: str = "") -> None:
    """Write the steps under way and a line of history."""
    row = await look(harness, saga_id)
    journal = decode_journal(row.journal).noting(Entry(at_us=row.now_us, what="failed", error=what))
    after = msgspec.structs.replace(changed(row, due_in=None), steps=steps, journal=encode_journal(journal).decode())
    await harness.source.run(harness.sagas.save([after]))


class SagaArchiveContract:
    """What every ``SagaArchive`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_those_changed_last_are_found_first(self, harness: StoreHarness) -> None:
        """As many as were asked for."""
        await start(harness, a_saga("o-1"), a_saga("o-2"))
        await let_expire(harness)
        await move(harness, "o-1", SagaStatus.COMPLETED)

        assert await find(harness) == ["o-1", "o-2"]
        assert await find(harness, limit=1) == ["o-1"]

    async def test_a_definition_is_named_with_or_without_its_service(self, harness: StoreHarness) -> None:
        """No part of a name counts, and no wildcard."""
        await start(harness, a_saga("o-1"), a_saga("o-2", saga="billing/fulfil"), a_saga("o-3", saga="shop/re_fulfil"))

        assert await find(harness, SagaFilter(saga=SAGA)) == ["o-1"]
        assert sorted(await find(harness, SagaFilter(saga="fulfil"))) == ["o-1", "o-2"]
        for name in ("ful", "f_lfil", "%", "shop"):
            assert await find(harness, SagaFilter(saga=name)) == []

    async def test_sagas_are_found_by_the_version_of_their_definition(self, harness: StoreHarness) -> None:
        """The one that they were started in."""
        await start(harness, a_saga("o-1"), a_saga("o-2", version=2))

        assert await find(harness, SagaFilter(version=1)) == ["o-1"]
        assert await find(harness, SagaFilter(saga=SAGA, version=2)) == ["o-2"]
        assert await find(harness, SagaFilter(version=3)) == []

    async def test_sagas_are_found_by_where_they_stand(self, harness: StoreHarness) -> None:
        """Each status for itself."""
        await start(harness, *(a_saga(status) for status in SagaStatus))
        for status in SagaStatus:
            await move(harness, status, status)

        for status in SagaStatus:
            assert await find(harness, SagaFilter(status=status)) == [status]

    async def test_sagas_are_found_by_a_step_under_way(self, harness: StoreHarness) -> None:
        """By its whole name, done or undone."""
        await start(harness, a_saga("o-1"), a_saga("o-2"), a_saga("o-3"))
        await note(harness, "o-1", steps="pay ship")
        await note(harness, "o-2", steps="pay_again")
        await note(harness, "o-3", steps="undo:pay")

        assert await find(harness, SagaFilter(step="pay")) == ["o-1"]
        assert await find(harness, SagaFilter(step="ship")) == ["o-1"]
        assert await find(harness, SagaFilter(step="undo:pay")) == ["o-3"]
        assert await find(harness, SagaFilter(step="pay%")) == []
        assert await find(harness, SagaFilter(step="pay_again")) == ["o-2"]

    async def test_sagas_are_found_by_their_age(self, harness: StoreHarness) -> None:
        """Since they were started, whatever has changed them meanwhile."""
        await start(harness, a_saga("o-1"))
        await let_expire(harness)
        await move(harness, "o-1", SagaStatus.RUNNING)

        assert await find(harness, SagaFilter(older_than=ANY_AGE)) == ["o-1"]
        assert await find(harness, SagaFilter(older_than=LONG)) == []

    async def test_a_text_is_searched_for_as_it_is(self, harness: StoreHarness) -> None:
        """In state and history; no sign in it is a wildcard."""
        await start(harness, a_saga("o-1", state='{"note":"10 % off_ season!"}'), a_saga("o-2"))
        await note(harness, "o-2", what="the bank said: 100% no")

        assert await find(harness, SagaFilter(text="10 % off_")) == ["o-1"]
        assert await find(harness, SagaFilter(text="season!")) == ["o-1"]
        assert await find(harness, SagaFilter(text="bank said")) == ["o-2"]
        assert await find(harness, SagaFilter(text="100%")) == ["o-2"]
        assert await find(harness, SagaFilter(text="1%o")) == []
        assert await find(harness, SagaFilter(text="off__season")) == []

    async def test_a_text_is_searched_for_in_upper_and_lower_case(self, harness: StoreHarness) -> None:
        """As in dead letters; an operator does not know how a driver writes it."""
        await start(harness, a_saga("o-1", state='{"note":"Gift"}'), a_saga("o-2"))
        await note(harness, "o-2", what="Bank SAID no")

        assert await find(harness, SagaFilter(text="gIFT")) == ["o-1"]
        assert await find(harness, SagaFilter(text="bank said")) == ["o-2"]
        assert await find(harness, SagaFilter(text="GIFTS")) == []

    async def test_a_text_is_found_that_is_written_otherwise_in_json(self, harness: StoreHarness) -> None:
        """Errors of databases quote names, and are searched for as they were read."""
        await start(harness, a_saga("o-1", state='{"note":"C:\\\\temp"}'), a_saga("o-2"))
        await note(harness, "o-2", what='violates the constraint "once"\nof seats')

        assert await find(harness, SagaFilter(text='constraint "once"\n')) == ["o-2"]
        assert await find(harness, SagaFilter(text="C:\\temp")) == ["o-1"]
        assert await find(harness, SagaFilter(text='"note":"C:')) == ["o-1"]
        assert await find(harness, SagaFilter(text="\ud800\0")) == []

    async def test_all_that_is_said_must_be_true(self, harness: StoreHarness) -> None:
        """Conditions add up."""
        await start(harness, a_saga("o-1"), a_saga("o-2"))
        await note(harness, "o-1", steps="pay")
        wanted = SagaFilter(saga=SAGA, status=SagaStatus.RUNNING, step="pay", older_than=ANY_AGE, text="o-1")

        assert await find(harness, wanted) == ["o-1"]
        assert await find(harness, msgspec.structs.replace(wanted, status=SagaStatus.COMPLETED)) == []

    async def test_get_returns_all_that_is_kept_of_an_id(self, harness: StoreHarness) -> None:
        """Of one definition, or of each that has the id."""
        one = a_saga("o-1")
        await start(harness, one, a_saga("o-1", saga="shop/return"), a_saga("o-2"))
        await move(harness, "o-1", SagaStatus.NEEDS_ATTENTION)

        (details,) = await harness.source.run(harness.saga_archive.get("o-1", saga=SAGA))
        both = await harness.source.run(harness.saga_archive.get("o-1"))

        summary = details.summary
        assert (summary.saga, summary.saga_id, summary.version, summary.status) == (SAGA, "o-1", 1, "needs_attention")
        assert (details.state, details.journal, details.serial, details.correlation_id) == (
            STATE,
            one.journal,
            1,
            "o-1",
        )
        assert summary.due_at is None
        assert summary.started_at <= summary.changed_at
        assert [one.summary.saga for one in both] == [SAGA, "shop/return"]
        assert list(await harness.source.run(harness.saga_archive.get("gone"))) == []

    async def test_counts_are_by_definition_version_and_status(self, harness: StoreHarness) -> None:
        """With since when the oldest has stood there."""
        await start(harness, a_saga("o-1"), a_saga("o-2"), a_saga("o-3", version=2), a_saga("o-4"))
        await move(harness, "o-4", SagaStatus.COMPLETED)

        counts = await harness.source.run(harness.saga_archive.counts())

        found = {(one.saga, one.version, one.status.value): one.count for one in counts}
        assert found == {(SAGA, 1, "running"): 2, (SAGA, 2, "running"): 1, (SAGA, 1, "completed"): 1}
        assert all(timedelta(0) <= one.oldest < LONG for one in counts)

    async def test_those_in_need_are_counted(self, harness: StoreHarness) -> None:
        """With since when the oldest has been."""
        nobody = await harness.source.run(harness.saga_archive.in_need())
        await start(harness, *(a_saga(status) for status in SagaStatus), a_saga("o-1", saga="billing/fulfil"))
        for status in SagaStatus:
            await move(harness, status, status)
        await move(harness, "o-1", SagaStatus.NEEDS_ATTENTION, saga="billing/fulfil")

        found = await harness.source.run(harness.saga_archive.in_need())

        assert (nobody.count, nobody.oldest_for) == (0, None)
        assert found.count == 2
        assert found.oldest_for is not None
        assert timedelta(0) <= found.oldest_for < LONG

    async def test_the_first_that_is_due_tells_of_its_service(self, harness: StoreHarness) -> None:
        """What is due later, or never, is nothing to worry about."""
        assert list(await harness.source.run(harness.saga_archive.overdue())) == []
        await start(harness, a_saga("o-1"), a_saga("o-2"), a_saga("o-3", saga="billing/fulfil"))
        await start(harness, a_saga("o-4", saga="arts/fulfil"), a_saga("o-5", saga="zoo/fulfil"))
        await move(harness, "o-1", SagaStatus.RUNNING, due_in=LONG)
        await move(harness, "o-3", SagaStatus.RUNNING, due_in=LONG, saga="billing/fulfil")
        await move(harness, "o-4", SagaStatus.COMPLETED, saga="arts/fulfil")
        await let_expire(harness)

        found = await harness.source.run(harness.saga_archive.overdue())

        assert [one.service for one in found] == ["shop", "zoo"]
        assert all(timedelta(0) < one.oldest_for < LONG for one in found)

    async def test_the_graphs_of_those_that_have_not_ended_are_kept(self, harness: StoreHarness) -> None:
        """The last one that was noted counts."""
        graphs = {(SAGA, 1): "[1]", (SAGA, 2): "[2]", ("shop/return", 1): "[3]"}
        await harness.source.run(harness.saga_archive.note_definitions({**graphs, (SAGA, 1): "[0]"}))
        await start(harness, a_saga("o-1"), a_saga("o-2", version=2), a_saga("o-3", version=3))
        await move(harness, "o-2", SagaStatus.COMPLETED)

        before = dict(await harness.source.run(harness.saga_archive.definitions()))
        await harness.source.run(harness.saga_archive.note_definitions(graphs))
        await harness.source.run(harness.saga_archive.note_definitions({}))

        assert before == {(SAGA, 1): "[0]"}
        assert dict(await harness.source.run(harness.saga_archive.definitions())) == {(SAGA, 1): "[1]"}
        assert await harness.source.run(harness.sagas.lock([SagaKey(SAGA, "o-3")]))
