"""A type that only the newer of two releases handles, whatever else is said of the consumer: nothing overtakes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import BySequence, Causal, SingleConsumer, event
from pillarbox.app.membership import Membership
from pillarbox.observe import (
    AttemptFailed,
    CauseAwaited,
    HeldKeyFull,
    MessageDead,
    MessageDiscarded,
    MessageHandled,
    MessageHeld,
)
from pillarbox.relational.tables import holds, members
from tests.integration.boxes import SETTINGS, Happenings, by_key, create_tables, make_box, note, noted, publish
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox import Pillarbox, Settings

ONE_OF_EACH = [
    "sqlite",
    pytest.param("postgresql+psycopg", marks=pytest.mark.server),
    pytest.param("mariadb+asyncmy", marks=pytest.mark.server),
]
on_each = pytest.mark.parametrize("store_url", ONE_OF_EACH, indirect=True)
KINDS: dict[str, dict[str, Any]] = {"transaction": {}, "outside": {"outside": True}, "batch": {"batch": 10}}
KEYS, COUNT = "abc", 6


@event("thing.made", key="thing", numbered=True)
@dataclass(frozen=True)
class Made:
    """What both releases handle."""

    thing: str
    number: int


@event("thing.changed", key="thing", numbered=True)
@dataclass(frozen=True)
class Changed:
    """What only the newer release handles."""

    thing: str
    number: int


RULES: dict[str, dict[str, Any]] = {
    "by key": {},
    "by sequence": {"ordering": BySequence()},
    "causal": {"ordering": Causal()},
    "stop": {"when_dead": "stop"},
    "skip": {"when_dead": "skip"},
    "business key": {"dedupe_by": lambda one: f"{one.thing} {one.number}"},
}


def make_release(
    url: str, kind: str, *types: type[Any], settings: Settings = SETTINGS, **options: Any
) -> tuple[Pillarbox, Happenings]:
    box, happenings = make_box(url, settings=settings)
    union: Any = types[0] if len(types) == 1 else types[0] | types[1]

    async def record(one: Any, tx: AsyncConnection) -> None:
        await note(tx, f"{one.thing} {one.number}")

    async def outside(one: Any) -> None:
        async with box.transaction() as tx:
            await record(one, tx)

    async def batch(several: list[Any], tx: AsyncConnection) -> None:
        for one in several:
            await record(one, tx)

    handler: Any = {"outside": outside, "batch": batch}.get(kind, record)
    handler.__annotations__[next(iter(handler.__annotations__))] = list[union] if kind == "batch" else union
    box.on(*types, name="book", **KINDS[kind], **options)(handler)
    return box, happenings


async def live(box: Pillarbox) -> Membership:
    """Be a process among the others that has not begun to receive."""
    workers = await box._workers(relay=False, consumers=True, sagas=False)
    return next(one for one in workers if isinstance(one, Membership))


async def due_at(box: Pillarbox) -> int | None:
    """When the key that is held is looked at next; ``None`` where none is held."""
    async with box.transaction() as tx:
        return (await tx.execute(select(holds.c.due_at))).scalar()


def things(*numbers: int) -> list[object]:
    """Return one of each key for each number; those of even numbers are changes."""
    return [(Made if number % 2 else Changed)(key, number) for number in numbers for key in KEYS]


@on_each
@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        ("by key", "batch"),
        ("by sequence", "transaction"),
        ("by sequence", "outside"),
        ("causal", "transaction"),
        ("causal", "outside"),
        ("stop", "transaction"),
        ("skip", "outside"),
        ("business key", "transaction"),
        ("business key", "outside"),
    ],
)
async def test_two_releases_side_by_side_handle_everything_once_and_in_order(
    store_url: str, rule: str, kind: str
) -> None:
    """Whoever gets a message that it does not know puts it aside, which is no attempt and no dead letter."""
    older, seen = make_release(store_url, kind, Made, **RULES[rule])
    newer, happened = make_release(store_url, kind, Made, Changed, **RULES[rule])
    async with older.running():
        await create_tables(older)
        async with newer:
            await live(newer)
            await publish(newer, *things(1, 2, 3))
            await seen.until(MessageHandled, len(KEYS))
            await seen.until(MessageHeld, 2 * len(KEYS))
        async with newer.running(relay=False):
            for number in range(4, COUNT + 1):
                await publish(newer, *things(number))

            def are_handled() -> bool:
                return len(seen.of(MessageHandled)) + len(happened.of(MessageHandled)) >= COUNT * len(KEYS)

            await wait_until(are_handled, timedelta(seconds=40))
            assert by_key(await noted(newer)) == {key: list(range(1, COUNT + 1)) for key in KEYS}

    for each in (seen, happened):
        assert not [*each.of(MessageDiscarded), *each.of(AttemptFailed), *each.of(MessageDead)]
        assert {one.attempts for one in each.of(MessageHandled)} == {1}


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_behind_it_beyond_the_limit_of_a_key_goes_back_and_overtakes_nothing(
    store_url: str, kind: str
) -> None:
    settings = replace(SETTINGS, max_held=2)
    older, seen = make_release(store_url, kind, Made, settings=settings)
    newer, happened = make_release(store_url, kind, Made, Changed, settings=settings)
    async with older.running():
        await create_tables(older)
        async with newer:
            await live(newer)
            await publish(newer, *things(1, 2, 3))
            await seen.until(MessageHeld, 2 * len(KEYS))
            await publish(newer, *things(*range(4, COUNT + 1)))
            await seen.until(HeldKeyFull)
    async with newer.running():
        await happened.until(MessageHandled, (COUNT - 1) * len(KEYS))
        assert by_key(await noted(newer)) == {key: list(range(1, COUNT + 1)) for key in KEYS}


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
async def test_with_a_single_consumer_everything_waits_until_the_old_process_has_ended(
    store_url: str, kind: str
) -> None:
    older, seen = make_release(store_url, kind, Made, ordering=SingleConsumer())
    newer, happened = make_release(store_url, kind, Made, Changed, ordering=SingleConsumer())
    async with older.running():
        await create_tables(older)
        async with newer.running(relay=False):
            await publish(newer, *things(1, 2, 3))
            await seen.until(MessageHeld, 2 * len(KEYS))
            assert len(seen.of(MessageHandled)) == len(KEYS)
    async with newer.running():
        await happened.until(MessageHandled, 2 * len(KEYS))
        assert await noted(newer) == [f"{key} {number}" for number in (1, 2, 3) for key in KEYS]


@on_each
@pytest.mark.parametrize("kind", ["transaction", "outside"])
async def test_a_cause_that_only_the_newer_release_handles_is_waited_for_by_both(store_url: str, kind: str) -> None:
    """It is put aside by the older one, which would see nothing of what it caused in time."""
    older, seen = make_release(store_url, kind, Made, ordering=Causal())
    newer, happened = make_release(store_url, kind, Made, Changed, ordering=Causal())
    async with older.running():
        await create_tables(older)
        async with newer:
            await live(newer)
            async with newer.transaction() as tx:
                cause = await newer.publish(Changed("a", 1), tx=tx)
            await seen.until(MessageHeld)
            async with newer.transaction() as tx:
                await newer.publish(Made("b", 2), tx=tx, after=[cause])
            await seen.until(CauseAwaited)
    async with newer.running():
        await happened.until(MessageHandled, 2)
        assert await noted(newer) == ["a 1", "b 2"]


@on_each
async def test_what_waits_for_a_release_waits_on_while_its_only_process_starts_anew(store_url: str) -> None:
    """As one does of which there is one beside many of the release before: it has left, and comes again."""
    older, seen = make_release(store_url, "transaction", Made)
    newer, happened = make_release(store_url, "transaction", Made, Changed)
    async with older.running():
        await create_tables(older)
        async with newer:
            membership = await live(newer)
            await publish(newer, Changed("a", 1), Made("a", 2))
            await seen.until(MessageHeld, 2)
            await membership.leave()
            since = await due_at(newer)

            async def is_looked_at_again() -> bool:
                return await due_at(newer) != since

            await wait_until(is_looked_at_again)
        async with newer.running(relay=False):
            await happened.until(MessageHandled)
            assert (await noted(newer))[0] == "a 1"

    assert not seen.of(MessageDiscarded)


async def test_a_cause_that_no_release_handles_any_more_is_not_waited_for(sqlite_url: str) -> None:
    older, seen = make_release(sqlite_url, "transaction", Made, ordering=Causal())
    newer, _ = make_release(sqlite_url, "transaction", Made, Changed, ordering=Causal())
    async with older.running():
        await create_tables(older)
        async with newer:
            await live(newer)
            async with newer.transaction() as tx:
                cause = await newer.publish(Changed("a", 1), tx=tx)
                await newer.publish(Made("b", 2), tx=tx, after=[cause])
            await seen.until(MessageHeld)
        async with older.transaction() as tx:  # its lease has ended
            await tx.execute(delete(members).where(members.c.types.contains("thing.changed")))
        await seen.until(MessageHandled)
        await seen.until(MessageDiscarded)
