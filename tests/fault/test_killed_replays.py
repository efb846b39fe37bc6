"""Replay runs whose processes are killed, of the same letters by two operators: each letter is replayed once."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from sqlalchemy import select

from pillarbox.deadletter import Burial, DeadLetterFilter, DeadLetterState, ReplayRun, RunState
from pillarbox.deadletter.runs import ItemState
from pillarbox.errors import ConflictError
from pillarbox.holding import Hold, HoldState
from pillarbox.message import Message
from tests import effort
from tests.fault.killing import kill_again_and_again
from tests.fault.programs import Consuming, consume
from tests.fault.story import TOPIC, Entered, Setting, effects, prepare
from tests.waiting import wait_until

if TYPE_CHECKING:
    from random import Random

    from pillarbox import Pillarbox
    from tests.fault.workers import Workers

LETTERS = effort.of(1000, 400)
KEYS = LETTERS * 9 // 10
BURIED_AT_ONCE = 200
CONSUMER = "bank/post"
WITHIN = timedelta(seconds=90)
PACES = [
    (store, pace)
    for store, part in (("psycopg", ["batches"]), ("mariadb", ["rate"]))
    for pace in effort.of(["rate", "batches"], part)
]


def letter(number: int) -> Message:
    """Return a message that is dead; the last tenth has no key."""
    entry = Entered(account=f"account-{number}", seq=1, token=f"token-{number}")
    return Message(
        id=f"m-{number:04}",
        type="ledger.entered",
        destination=TOPIC,
        key=entry.account if number < KEYS else None,
        content_type="application/json",
        headers={"source": "bank"},
        body=msgspec.json.encode(entry),
    )


async def bury(box: Pillarbox) -> None:
    """Bury the letters, and let what came behind each of the first ones wait."""
    for start in range(0, LETTERS, BURIED_AT_ONCE):
        messages = [letter(number) for number in range(start, start + BURIED_AT_ONCE)]
        burials = [
            Burial(
                hold_key=f"m:{one.id}" if one.key is None else f"k:{one.key}",
                message=one,
                reason="exhausted",
                attempts=5,
                history=(),
                stack="",
                fingerprint="cause",
            )
            for one in messages
        ]
        blocked = [Hold(hold_key=one.hold_key, state=HoldState.BLOCKED) for one in burials]
        async with box.store.begin() as tx:
            await tx.run(box.store.dead_letters.bury(CONSUMER, burials))
            await tx.run(box.store.holding.hold(CONSUMER, blocked))


async def ask(box: Pillarbox, by: str, rate: int | None) -> ReplayRun:
    """Ask for the replay of everything."""
    while True:
        try:
            return await box.dead_letters.replay_all(DeadLetterFilter(), by=by, rate=rate)
        except ConflictError:
            continue


@pytest.mark.parametrize(("setting", "pace"), PACES, indirect=["setting"])
async def test_killed_runs_of_two_operators_replay_each_letter_once(
    setting: Setting, pace: str, box: Pillarbox, workers: Workers, rng: Random
) -> None:
    """Slowly enough for kills to fall into it: by a rate, or by small batches whose transactions take turns."""
    rate, batch = (LETTERS // 4, LETTERS) if pace == "rate" else (None, 3)
    await prepare(setting, ["unused"], consumers=("post",))
    await bury(box)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(ask(box, by, rate)) for by in ("ann", "bob")]
    runs = [task.result() for task in asked]

    how = Consuming(consumers=("post",), handle_ms=1, replay_batch=batch)
    kills = effort.of(10, 2)
    await kill_again_and_again(lambda: workers.start(consume, setting, how), kills=kills, rng=rng, at_once=2)

    async def all_ended() -> list[ReplayRun] | None:
        now = [await box.dead_letters.run(run.id) for run in runs]
        return now if all(run.state is not RunState.OPEN for run in now) else None

    first, second = await wait_until(all_ended, WITHIN) or []
    async with box.store.begin() as tx:
        applied = Counter((await tx.connection.execute(select(effects.c.token))).scalars().all())
    letters = await box.dead_letters.list(DeadLetterFilter(state=None), limit=LETTERS + 1)
    crashed = [one for one in letters if one.state is DeadLetterState.DEAD]
    print(f"{kills} kills; {len(crashed)} dead again; {dict(first.items)} and {dict(second.items)}")

    assert {one.state for one in letters} <= {DeadLetterState.RESOLVED, DeadLetterState.DEAD}
    assert {one.replays for one in letters} == {1}
    assert applied == Counter(f"token-{one.message.id[2:].lstrip('0') or '0'}" for one in letters if one not in crashed)
    assert first.total == second.total == LETTERS
    taken = sum(run.count(ItemState.RESOLVED, ItemState.FAILED) for run in (first, second))
    passed = sum(run.count(ItemState.PASSED) for run in (first, second))
    assert (taken, passed) == (LETTERS, LETTERS)
