"""Histories drawn by dice: two processes work and fail by turns; each message is handled once, in order."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from pillarbox import BySequence, GapPolicy, Retry
from pillarbox.stores.sqlite import sqlite_store
from tests import effort
from tests.integration.boxes import noted
from tests.integration.numbered import Hands, box_of_readings, deliver, reading, values

if TYPE_CHECKING:
    from random import Random

    from pillarbox.message import Message
    from pillarbox.relational import RelationalStore

RULE = BySequence(gap=GapPolicy(wait=timedelta(0), max_buffered=6), start="first")
RETRY = Retry(attempts=9, immediate=0, first=timedelta(0))
KEYS, NUMBERS = ("m-1", "m-2"), 12


@pytest.mark.parametrize("outside", [False, True], ids=["transaction", "outside"])
async def test_each_message_is_handled_once_and_in_order(outside: bool, rng: Random) -> None:
    for _ in range(effort.of(100, 6)):
        await _live_one(rng, outside=outside)


async def _live_one(rng: Random, *, outside: bool) -> None:
    store = sqlite_store(make_url("sqlite://"))
    await store.migrate()
    fails = {number: rng.randrange(3) for number in rng.sample(range(1, NUMBERS + 1), 3)}
    called: list[str] = []
    both = [_hands(store, fails, called if outside else None) for _ in range(2)]
    for one in both:
        await one.begin()
    messages = _history(rng)
    try:
        while messages:
            count = rng.randint(1, 8)
            await deliver(both[0].box, messages[:count])
            messages = messages[count:]
            for _ in range(rng.randrange(3)):
                await _step(rng.choice(both), rng)
        for _ in range(200):
            if not [one for one in both if await one.receive() or await one.drainer.round() or await one.watch.round()]:
                break
        found = called if outside else await noted(both[0].box)
        for key in KEYS:
            assert [one for one in found if one.startswith(f"{key}/")] == values(*range(1, NUMBERS + 1), key=key)
        assert await both[0].early() == 0
    finally:
        await store.close()


async def _step(one: Hands, rng: Random) -> None:
    match rng.randrange(4):
        case 0 | 1:
            await one.receive(rng.randint(1, 10))
        case 2:
            await one.drainer.round()
        case _:
            await one.watch.round()


def _history(rng: Random) -> list[Message]:
    """Return shuffled messages of two keys, some of them twice."""
    messages = [reading(number, key=key) for key in KEYS for number in range(1, NUMBERS + 1)]
    messages.sort(key=lambda one: int(one.headers["sequence"]) + rng.uniform(0, rng.choice([2, 6, 20])))
    for message in rng.sample(messages, 4):
        messages.insert(rng.randrange(len(messages)), message)
    return messages


def _hands(store: RelationalStore, fails: dict[int, int], called: list[str] | None) -> Hands:
    box, happenings = box_of_readings(store, RULE, fails=fails, retry=RETRY, called=called)  # type: ignore[arg-type]
    return Hands(box, happenings)
