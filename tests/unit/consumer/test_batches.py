"""Handlers of batches: how messages are put together, and how a failure is found among them."""

from __future__ import annotations

import re
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from pillarbox.errors import InvalidReturnError
from pillarbox.retry import Retry
from tests.unit.consumer.scripted import fails, item, returns, stage
from tests.unit.consumer.test_process import Batches, handle, items_of

LATER = Retry(attempts=2, immediate=0, first=timedelta(seconds=2))
ONCE = Retry(attempts=1)


async def test_a_run_is_handed_over_in_lists_of_at_most_the_batch() -> None:
    scene = stage(batch=3)
    batches = Batches(scene, returns())

    await handle(scene, batches, items_of(8))

    assert scene.invocations == [["m0", "m1", "m2"], ["m3", "m4", "m5"], ["m6", "m7"]]
    assert len(batches.committed) == 1
    assert batches.handled == [f"m{number}" for number in range(8)]


async def test_a_failure_of_several_is_halved_until_it_is_alone_and_only_then_an_attempt() -> None:
    scene = stage(batch=100, retry=LATER)
    items = items_of(8)
    batches = Batches(scene, fails("m5"))

    await handle(scene, batches, items)

    assert scene.invocations == [
        [f"m{number}" for number in range(8)],
        ["m0", "m1", "m2", "m3"],
        ["m4", "m5", "m6", "m7"],
        ["m4", "m5"],
        ["m4"],
        ["m5"],
        ["m6", "m7"],
    ]
    assert [one.attempts for one in items] == [0, 0, 0, 0, 0, 1, 0, 0]
    assert scene.intake.retried == ["m5"]


async def test_what_is_behind_a_failed_one_of_its_key_waits() -> None:
    scene = stage(batch=100, retry=LATER)
    items = [item("m0", key="a"), item("m1", key="b"), item("m2", key="a"), item("m3", key="b")]

    await handle(scene, Batches(scene, fails("m0")), items)

    assert (scene.intake.retried, scene.intake.behind) == (["m0"], ["m2"])
    assert scene.inbox.ids == {"m1", "m3"}


async def test_what_cannot_be_decoded_is_dead_and_the_others_are_handled_together() -> None:
    scene = stage(batch=100, undecodable=frozenset({"m1"}))
    items = items_of(3)

    await handle(scene, Batches(scene, returns()), items)

    assert scene.invocations == [["m0", "m2"]]
    assert scene.intake.dead == ["m1"]


async def test_a_returned_value_is_refused_since_nobody_knows_whose_it_is() -> None:
    scene = stage(batch=100)
    items = items_of(2)

    await handle(scene, Batches(scene, returns("summary")), items)

    assert scene.intake.dead == ["m0", "m1"]
    assert all(isinstance(one.error, InvalidReturnError) for one in items)
    assert "publish through list[Context]" in str(items[0].error)


@given(
    count=st.integers(1, 40),
    bad=st.sets(st.integers(0, 39)),
    keys=st.integers(1, 8),
    largest=st.integers(1, 50),
    batch=st.integers(1, 50),
)
async def test_every_message_has_one_outcome_and_keys_keep_their_order(
    count: int, bad: set[int], keys: int, largest: int, batch: int
) -> None:
    scene = stage(batch=batch, retry=ONCE)
    items = items_of(count, keys="abcdefgh"[:keys])
    batches = Batches(scene, fails(*(f"m{number}" for number in bad)))

    for start in range(0, count, largest):
        await handle(scene, batches, items[start : start + largest])

    outcome = {
        **dict.fromkeys(batches.handled, "handled"),
        **dict.fromkeys(scene.intake.dead, "dead"),
        **dict.fromkeys(scene.intake.behind, "behind"),
    }
    assert len(batches.handled) + len(scene.intake.dead) + len(scene.intake.behind) == count == len(outcome)
    for start in range(0, count, largest):
        chunk = items[start : start + largest]
        for key in {one.hold_key for one in chunk}:
            course = [outcome[one.message.id] for one in chunk if one.hold_key == key]
            assert re.fullmatch("(handled )*(dead )?(behind )*", "".join(f"{one} " for one in course)), course
            assert "behind" not in course or "dead" in course
    assert set(scene.intake.dead) <= {f"m{number}" for number in bad}


async def test_of_two_that_mean_the_same_in_one_batch_one_is_handled() -> None:
    scene = stage(batch=100, business_row=lambda one: "dedupe:the same")
    batches = Batches(scene, returns())

    await handle(scene, batches, items_of(2))

    assert scene.invocations == [["m0"]]
    assert scene.inbox.ids == {"m0", "m1", "dedupe:the same"}
