"""The rules of groups of dead letters: they count what comes and goes, and tell when a cause comes back."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from msgspec.structs import replace

from pillarbox.deadletter import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterGroup,
    DeadLetterState,
    GroupFilter,
    GroupState,
)
from pillarbox.deadletter.editing import Change
from pillarbox.deadletter.groups import Arrival
from pillarbox.testing.contracts.dead_letters import CONSUMER, FIRST, burial, bury, find, move
from pillarbox.testing.contracts.harness import LONG, StoreHarness, let_expire, make_message, rolled_back

OTHER = "shop/other"
EVERYTHING = DeadLetterFilter(state=None)
NOW = timedelta(0)


class DeadLetterReviewContract:
    """What every ``DeadLetterReview`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_letters_of_one_cause_are_one_group_of_their_consumer(self, harness: StoreHarness) -> None:
        """With what they have in common, how many came, and when."""
        await bury(harness, *(burial(make_message(f"m{number}")) for number in range(3)))
        await bury(harness, burial(make_message("m0")), consumer=OTHER)
        await bury(harness, burial(make_message("m9"), fingerprint="cause-2"))

        found = {(one.consumer, one.fingerprint): one for one in await groups(harness)}

        assert sorted(found) == [(OTHER, "cause-1"), (CONSUMER, "cause-1"), (CONSUMER, "cause-2")]
        one = found[CONSUMER, "cause-1"]
        assert (one.type, one.error_type, one.example) == ("order.placed", "ValueError", "unfit")
        assert (one.arrivals, one.dead, one.state, one.regressed, one.note) == (3, 3, GroupState.OPEN, False, "")
        assert one.first_seen <= one.last_seen

    async def test_a_letter_that_leaves_is_dead_no_more(self, harness: StoreHarness) -> None:
        """Replayed or discarded; it stays counted as one that came."""
        await bury(harness, *(burial(make_message(f"m{number}")) for number in range(4)))
        one, two, *_ = await find(harness)
        await move(harness, one.id, DeadLetterState.REPLAYING)
        await move(harness, two.id, DeadLetterState.DISCARDED)

        assert [(group.arrivals, group.dead) for group in await groups(harness)] == [(4, 2)]

    async def test_a_replay_that_fails_again_is_counted_where_it_fails(self, harness: StoreHarness) -> None:
        """It may be another cause by now."""
        await bury(harness, burial(make_message("m1")))
        (letter,) = await find(harness)
        await move(harness, letter.id, DeadLetterState.REPLAYING)
        await bury(harness, burial(make_message("m1"), fingerprint="cause-2"))

        assert {one.fingerprint: (one.arrivals, one.dead) for one in await groups(harness)} == {
            "cause-1": (1, 0),
            "cause-2": (1, 1),
        }

    async def test_counts_are_right_however_many_bury_at_once(self, harness: StoreHarness) -> None:
        """The same letters too, which are dead once."""
        burials = [burial(make_message(f"m{number}"), fingerprint=f"cause-{number % 2}") for number in range(10)]

        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(bury(harness, *burials))

        assert {one.fingerprint: one.dead for one in await groups(harness)} == {"cause-0": 5, "cause-1": 5}

    async def test_a_burial_that_is_rolled_back_counts_nothing(self, harness: StoreHarness) -> None:
        """Groups are part of the run's transaction."""
        async with rolled_back(harness) as tx:
            await tx.run(harness.dead_letters.bury(CONSUMER, [burial(make_message("m1"))]))

        assert await groups(harness) == ()

    async def test_a_letter_that_comes_into_a_resolved_group_is_a_regression(self, harness: StoreHarness) -> None:
        """The group is open again, and says so until somebody decides anew."""
        await bury(harness, burial(make_message("m1")))
        await judge(harness, GroupState.RESOLVED, "fixed in 1.2")
        assert [(one.state, one.regressed) for one in await groups(harness)] == [(GroupState.RESOLVED, False)]

        await bury(harness, burial(make_message("m2")), burial(make_message("m3")))
        (came_back,) = await groups(harness)
        await judge(harness, GroupState.RESOLVED, None)
        (decided,) = await groups(harness)

        assert (came_back.state, came_back.regressed, came_back.note) == (GroupState.OPEN, True, "fixed in 1.2")
        assert (decided.state, decided.regressed, decided.note) == (GroupState.RESOLVED, False, "fixed in 1.2")

    async def test_whoever_buries_learns_whether_the_cause_is_new_or_has_come_back(self, harness: StoreHarness) -> None:
        """And how long it was quiet: before this burial, whoever did the one before."""
        both = [burial(make_message("m1")), burial(make_message("m2"), fingerprint="cause-2")]
        new = await harness.source.run(harness.dead_letters.bury(CONSUMER, both))
        elsewhere = await harness.source.run(harness.dead_letters.bury(OTHER, both[:1]))
        await let_expire(harness)
        await judge(harness, GroupState.RESOLVED, None)
        back = await harness.source.run(harness.dead_letters.bury(CONSUMER, [burial(make_message("m3")), *both]))
        again = await harness.source.run(harness.dead_letters.bury(CONSUMER, [burial(make_message("m4"))]))

        assert new == {"cause-1": Arrival(), "cause-2": Arrival()}
        assert elsewhere == {"cause-1": Arrival()}
        assert {cause: one.regressed for cause, one in back.items()} == {"cause-1": True, "cause-2": False}
        quiet = {cause: one.quiet_for for cause, one in back.items()}
        assert all(one is not None and one > NOW for one in quiet.values())
        assert [(cause, one.regressed) for cause, one in again.items()] == [("cause-1", False)], "as it did before"
        assert again["cause-1"].quiet_for is not None

    async def test_a_cause_is_new_and_comes_back_once_however_many_bury_at_once(self, harness: StoreHarness) -> None:
        """One of them learns it."""

        async def burials() -> list[Arrival]:
            async with asyncio.TaskGroup() as tasks:
                burying = [
                    tasks.create_task(
                        harness.source.run(harness.dead_letters.bury(CONSUMER, [burial(make_message(f"m{number}"))]))
                    )
                    for number in range(5)
                ]
            return [task.result()["cause-1"] for task in burying]

        first = await burials()
        await judge(harness, GroupState.RESOLVED, None)
        second = await burials()

        assert sum(one.quiet_for is None for one in first) == 1
        assert not any(one.regressed for one in first)
        assert sum(one.regressed for one in second) == 1
        assert all(one.quiet_for is not None for one in second)

    async def test_a_letter_that_comes_into_an_ignored_group_changes_only_its_count(
        self, harness: StoreHarness
    ) -> None:
        """It was decided that nobody need look."""
        await bury(harness, burial(make_message("m1")))
        await judge(harness, GroupState.IGNORED, None)
        await bury(harness, burial(make_message("m2")))

        (group,) = await groups(harness)
        assert (group.state, group.regressed, group.dead) == (GroupState.IGNORED, False, 2)

    async def test_a_note_leaves_the_state_as_it_is(self, harness: StoreHarness) -> None:
        """And what is not there is not judged."""
        await bury(harness, burial(make_message("m1")))
        await judge(harness, GroupState.RESOLVED, None)
        await bury(harness, burial(make_message("m2")))

        assert await judge(harness, None, "look into it") == 1
        assert await judge(harness, GroupState.IGNORED, None, fingerprint="cause-9") == 0
        (group,) = await groups(harness)
        assert (group.state, group.regressed, group.note) == (GroupState.OPEN, True, "look into it")

    async def test_groups_are_found_by_what_they_are_the_latest_first(self, harness: StoreHarness) -> None:
        """What is left out is not asked for."""
        for number in range(3):
            await bury(harness, burial(make_message(f"m{number}"), fingerprint=f"cause-{number}"))
            await let_expire(harness)
        await bury(harness, burial(make_message("m1")), consumer=OTHER)
        await judge(harness, GroupState.IGNORED, None)

        async def names(limit: int = 100, **where: str) -> list[str]:
            return [one.fingerprint for one in await groups(harness, GroupFilter(**where), limit=limit)]  # type: ignore[arg-type]  # words of the filter

        assert await names(consumer=CONSUMER) == ["cause-2", "cause-1", "cause-0"]
        assert await names(consumer=CONSUMER, limit=2) == ["cause-2", "cause-1"]
        assert await names(consumer=CONSUMER, state=GroupState.OPEN) == ["cause-2", "cause-0"]
        assert await names(fingerprint="cause-1") == ["cause-1", "cause-1"]

    async def test_an_error_of_any_length_and_text_has_a_group(self, harness: StoreHarness) -> None:
        """Cut to what fits, not refused."""
        odd = replace(FIRST, error_type="Ü" * 500, error="ünd " * 5_000)
        await bury(harness, burial(make_message("m1"), history=(odd,)), burial(make_message("m2"), history=()))

        (group,) = await groups(harness)
        assert group.dead == 2

    async def test_statistics_count_each_letter_by_what_it_is(self, harness: StoreHarness) -> None:
        """Consumer, type, state and reason, with the earliest first failure."""
        await bury(harness, burial(make_message("m1")), burial(make_message("m2")), burial(make_message("m3")))
        await bury(harness, burial(replace(make_message("m4"), type="stock.reserved"), reason="permanent"))
        await bury(harness, burial(make_message("m1")), consumer=OTHER)
        (first, *_) = await find(harness)
        await move(harness, first.id, DeadLetterState.DISCARDED)

        found = await harness.source.run(harness.operators.review.stats())

        assert [(one.consumer, one.type, one.state, one.reason, one.count) for one in found] == [
            (OTHER, "order.placed", DeadLetterState.DEAD, "exhausted", 1),
            (CONSUMER, "order.placed", DeadLetterState.DEAD, "exhausted", 2),
            (CONSUMER, "order.placed", DeadLetterState.DISCARDED, "exhausted", 1),
            (CONSUMER, "stock.reserved", DeadLetterState.DEAD, "permanent", 1),
        ]
        assert {one.oldest_failed_at for one in found} == {FIRST.at}

    async def test_dead_letters_that_failed_long_ago_are_counted_by_consumer(self, harness: StoreHarness) -> None:
        """With the age of the oldest; what is younger, or dead no more, does not count."""
        await bury(harness, *(burial(make_message(f"m{number}")) for number in range(4)))
        replaying, discarded, *_ = await find(harness)
        await move(harness, replaying.id, DeadLetterState.REPLAYING)
        await move(harness, discarded.id, DeadLetterState.DISCARDED)
        await let_expire(harness)
        await bury(harness, burial(make_message("m1")), consumer=OTHER)
        await let_expire(harness)

        found = await harness.source.run(harness.operators.review.aged(NOW))

        assert [(one.consumer, one.count) for one in found] == [(OTHER, 1), (CONSUMER, 2)]
        assert NOW < found[0].oldest_for < found[1].oldest_for < LONG
        assert list(await harness.source.run(harness.operators.review.aged(LONG))) == []

    async def test_only_what_was_decided_about_is_purged(self, harness: StoreHarness) -> None:
        """And is old enough; with its edits, a few at a time."""
        await bury(harness, *(burial(make_message(f"m{number}")) for number in range(5)))
        dead, replaying, resolved, discarded, another = await find(harness)
        await _edit(harness, discarded)
        for letter in (replaying, resolved):
            await move(harness, letter.id, DeadLetterState.REPLAYING)
        await harness.source.run(harness.dead_letters.resolve(CONSUMER, [resolved.message.id]))
        for letter in (discarded, another):
            await move(harness, letter.id, DeadLetterState.DISCARDED)
        await let_expire(harness)

        assert await harness.source.run(harness.operators.review.purge(LONG, limit=100)) == 0
        purged = [await harness.source.run(harness.operators.review.purge(NOW, limit=2)) for _ in range(3)]

        assert purged == [2, 1, 0]
        assert [letter.id for letter in await find(harness, EVERYTHING)] == [dead.id, replaying.id]
        assert await harness.source.run(harness.operators.edits.edits(discarded.id)) == []


class DeadLetterEditsContract:
    """What every ``DeadLetterEdits`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_the_body_as_it_was_delivered_is_kept_beside_the_edited_one(self, harness: StoreHarness) -> None:
        """Byte for byte, however often it is edited."""
        delivered = bytes(range(256))
        await bury(harness, burial(make_message("m1", body=delivered)))
        (letter,) = await find(harness)

        assert await _edit(harness, letter, b"second", Change(path="", before='"ü"', after="1"))
        (edited,) = await find(harness)
        assert await _edit(harness, edited, b"third")

        (again,) = await find(harness)
        first, second = await harness.source.run(harness.operators.edits.edits(letter.id))
        assert (again.message.body, again.message.headers) == (b"third", letter.message.headers)
        assert (first.before, second.before) == (delivered, b"second")
        assert first.changes == (Change(path="", before='"ü"', after="1"),)
        assert (first.by, first.reason, first.letter_id) == ("ann", "typo", letter.id)

    async def test_burying_again_keeps_the_edited_body(self, harness: StoreHarness) -> None:
        """A replay that failed is to be edited further, not to begin anew."""
        await bury(harness, burial(make_message("m1")))
        (letter,) = await find(harness)
        await _edit(harness, letter, b"new")
        await move(harness, letter.id, DeadLetterState.REPLAYING)
        await bury(harness, burial(replace(make_message("m1"), body=b"new")))

        (again,) = await find(harness)
        assert again.message.body == b"new"

    async def test_only_what_is_dead_is_edited(self, harness: StoreHarness) -> None:
        """And only by whoever knows its body: of two editors one succeeds."""
        await bury(harness, burial(make_message("m1")), burial(make_message("m2")))
        one, two = await find(harness)
        await move(harness, one.id, DeadLetterState.REPLAYING)

        async with asyncio.TaskGroup() as tasks:
            edits = [tasks.create_task(_edit(harness, two, b"%d" % number)) for number in range(3)]

        assert not await _edit(harness, one)
        assert sorted(edit.result() for edit in edits) == [False, False, True]
        assert len(await harness.source.run(harness.operators.edits.edits(two.id))) == 1


async def groups(
    harness: StoreHarness, where: GroupFilter | None = None, *, limit: int = 100
) -> tuple[DeadLetterGroup, ...]:
    """Return groups, by default all of them."""
    return tuple(await harness.source.run(harness.operators.review.groups(where or GroupFilter(), limit=limit)))


async def judge(
    harness: StoreHarness, state: GroupState | None, note: str | None, *, fingerprint: str = "cause-1"
) -> int:
    """Judge the groups of one cause."""
    judging = harness.operators.review.judge(GroupFilter(fingerprint=fingerprint), state=state, note=note)
    return await harness.source.run(judging)


async def _edit(harness: StoreHarness, letter: DeadLetter, body: bytes = b"new", *changes: Change) -> bool:
    editing = harness.operators.edits.change(
        letter.id, before=letter.message.body, after=body, changes=changes, by="ann", reason="typo"
    )
    return await harness.source.run(editing)
