"""Gaps between numbers: how they are told of and closed, and what comes late or twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import make_url

from pillarbox import BySequence, GapPolicy, RelaySettings, Retry
from pillarbox.app.controlling import control_of
from pillarbox.consumer import gap_watch
from pillarbox.control import HealthStatus
from pillarbox.errors import ConfigurationError, ConflictError, NotFoundError, TransientError
from pillarbox.message import Message, Number
from pillarbox.observe import GapFetched, GapFound, GapSkipped, LineBegun, MessageDead
from pillarbox.ordering import Kept
from pillarbox.outbox import record_of
from pillarbox.relational import RelationalStore
from pillarbox.stores.sqlite import sqlite_store
from pillarbox.testing import VirtualClock
from tests.integration.boxes import SETTINGS, make_box
from tests.integration.conftest import MARIADB, SERVERS
from tests.integration.numbered import (
    CHANNEL,
    CONSUMER,
    EPOCH,
    KEY,
    Hands,
    MeterRead,
    box_of_readings,
    deliver,
    reading,
    values,
)

EVERY_KIND = pytest.mark.parametrize("store_url", ["memory", SERVERS[1], MARIADB], indirect=True)
MEMORY = pytest.mark.parametrize("store_url", ["memory"], indirect=True)
WAIT = timedelta(seconds=30)
AT_ONCE = timedelta(0)
LATER = Retry(immediate=0, first=timedelta(hours=1))


@asynccontextmanager
async def hands(url: str, rule: BySequence, **options: object) -> AsyncIterator[Hands]:
    """One process of the consumer, open."""
    box, happenings = box_of_readings(url, rule, **options)  # type: ignore[arg-type]
    async with box:
        opened = Hands(box, happenings)
        await opened.begin()
        yield opened


def rule(
    then: str = "hold", *, wait: timedelta = AT_ONCE, start: str = "first", max_buffered: int = 1000
) -> BySequence:
    return BySequence(gap=GapPolicy(wait=wait, then=then, max_buffered=max_buffered), start=start)  # type: ignore[arg-type]


async def test_a_stall_is_told_of_once_within_its_wait_and_seen_in_health_until_it_ends() -> None:
    clock = VirtualClock()
    store = sqlite_store(make_url("sqlite://"), now=clock.now)
    async with hands(store, rule(wait=WAIT), settings=replace(SETTINGS, clock=clock)) as one:  # type: ignore[arg-type]
        assert await one.arrive(*(reading(number) for number in range(1, 11) if number != 5)) == values(1, 2, 3, 4)

        clock.advance(WAIT - timedelta(seconds=1))
        await one.watch.round()
        assert one.happenings.of(GapFound) == []
        clock.advance(timedelta(seconds=2))
        await one.watch.round()
        await one.watch.round()

        (told,) = one.happenings.of(GapFound)
        assert (told.consumer, told.channel, told.first, told.last, told.buffered) == (CONSUMER, CHANNEL, 5, 5, 5)
        health = await one.box.health()
        assert health.status is HealthStatus.DEGRADED
        assert "5 messages wait for numbers that have not come, for 31 s" in health.problems[0].what
        assert await one.arrive(reading(5)) == values(*range(1, 11))
        assert (await one.box.health()).status is HealthStatus.OK


@EVERY_KIND
async def test_skip_goes_on_without_what_is_missing_and_what_comes_late_is_dead(store_url: str) -> None:
    async with hands(store_url, rule("skip")) as one:
        await one.arrive(reading(1), reading(4), reading(5))

        await one.watch.round()
        assert await one.drain() == values(1, 4, 5)
        assert await one.arrive(reading(2), reading(6)) == values(1, 4, 5, 6)

        (skipped,) = one.happenings.of(GapSkipped)
        assert (skipped.first, skipped.last, skipped.by) == (2, 3, "pillarbox")
        assert await one.dead() == [("m-1-7-2", "late")]
        assert [told.holds_key for told in one.happenings.of(MessageDead)] == [False]
        assert await one.arrive(reading(7)) == values(1, 4, 5, 6, 7)


@EVERY_KIND
async def test_fetch_asks_for_what_is_missing_where_it_is_kept(store_url: str) -> None:
    settings = replace(SETTINGS, relay=RelaySettings(keep=timedelta(days=1)))
    async with hands(store_url, rule("fetch"), settings=settings) as one:
        published = await _publish(one.box.store, 8)
        await one.arrive(*(published[at] for at in (0, 3, 4, 7)))

        for _ in range(2):
            await one.watch.round()
            await one.drain()

        assert await one.drain() == values(*range(1, 9))
        assert [(told.first, told.last, told.found) for told in one.happenings.of(GapFetched)] == [(2, 3, 2), (6, 7, 2)]


@MEMORY
async def test_what_is_not_kept_any_more_leaves_the_gap(store_url: str) -> None:
    settings = replace(SETTINGS, relay=RelaySettings(keep=timedelta(days=1)))
    async with hands(store_url, rule("fetch"), settings=settings) as one:
        await one.arrive(reading(1), reading(3))

        await one.watch.round()

        assert [told.found for told in one.happenings.of(GapFetched)] == [0]
        assert len(one.happenings.of(GapFound)) == 1
        assert await one.drain() == values(1)
        assert await one.early() == 1


class SilentOnce(Kept):
    """Keeps one message, and does not answer the first time."""

    def __init__(self, message: Message) -> None:
        self.message = message
        self.was_asked = False

    async def fetch(self, destination: str, key: str, *, first: Number, last: int) -> Sequence[Message]:
        if not self.was_asked:
            self.was_asked = True
            await asyncio.Event().wait()
        return [self.message]


@MEMORY
async def test_whoever_keeps_messages_and_does_not_answer_is_asked_again(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gap_watch, "FETCH_WITHIN", timedelta(milliseconds=1))
    policy = GapPolicy(wait=AT_ONCE, then="fetch", fetch_from=SilentOnce(reading(2)))
    async with hands(store_url, BySequence(gap=policy, start="first")) as one:
        await one.arrive(reading(1), reading(3))
        with pytest.raises(TransientError, match=r"whoever keeps the messages of .* did not answer within 0.001 s"):
            await one.watch.round()
        await one.watch.round()

        assert await one.drain() == values(1, 2, 3)


@EVERY_KIND
@pytest.mark.parametrize("outside", [False, True])
async def test_what_was_handled_before_the_consumer_went_by_numbers_is_not_waited_for(
    store_url: str, outside: bool
) -> None:
    called: list[str] | None = [] if outside else None
    settings = replace(SETTINGS, relay=RelaySettings(keep=timedelta(days=1)))
    async with hands(store_url, rule("fetch"), settings=settings, called=called) as one:
        published = await _publish(one.box.store, 6)
        await one.box.store.run(one.box.store.inbox.record(CONSUMER, [message.id for message in published[:3]]))
        await one.arrive(published[4])

        for _ in range(3):
            await one.watch.round()
            await one.drain()

        handled = called if called is not None else await one.drain()
        assert handled == values(4, 5)
        assert await one.early() == 0


@MEMORY
async def test_a_duplicate_of_what_was_handled_before_does_not_begin_a_line(store_url: str) -> None:
    """It begins with the lowest number that is new, and waits for none between the two."""
    async with hands(store_url, rule(start="next")) as one:
        await one.box.store.run(one.box.store.inbox.record(CONSUMER, [reading(1).id]))
        await one.arrive(reading(1), reading(50), reading(51))

        await one.watch.round()

        assert await one.drain() == values(50, 51)
        assert [told.first for told in one.happenings.of(LineBegun)] == [50]


@EVERY_KIND
async def test_a_duplicate_of_what_was_handled_before_moves_the_line_on(store_url: str) -> None:
    async with hands(store_url, rule()) as one:
        await one.box.store.run(one.box.store.inbox.record(CONSUMER, [reading(1).id, reading(2).id]))

        assert await one.arrive(reading(2), reading(1), reading(3)) == values(3)
        assert await one.arrive(reading(4)) == values(3, 4)


@EVERY_KIND
async def test_what_waits_for_what_was_handled_before_goes_on_at_once(store_url: str) -> None:
    async with hands(store_url, rule(wait=timedelta(hours=1))) as one:
        await one.box.store.run(one.box.store.inbox.record(CONSUMER, [reading(1).id, reading(2).id]))
        assert await one.arrive(reading(3), reading(4)) == []

        await one.arrive(reading(2), reading(1))

        assert await one.drain() == values(3, 4)
        assert await one.early() == 0


@pytest.mark.parametrize("keep", [None, timedelta(seconds=5)])
async def test_fetch_is_refused_when_nothing_is_kept_for_as_long_as_it_waits(keep: timedelta | None) -> None:
    settings = replace(SETTINGS, relay=RelaySettings(keep=keep))
    box, _ = box_of_readings("memory://", rule("fetch", wait=WAIT), settings=settings)

    with pytest.raises(ConfigurationError, match="set RelaySettings"):
        async with box.running():
            pass


@EVERY_KIND
async def test_so_many_wait_and_no_more_and_what_they_wait_for_still_gets_in(store_url: str) -> None:
    async with hands(store_url, rule(wait=timedelta(hours=1), max_buffered=5)) as one:
        assert await one.arrive(reading(1), *(reading(number) for number in range(3, 13))) == values(1)
        assert await one.early() == 5
        await one.watch.round()
        assert [told.buffered for told in one.happenings.of(GapFound)] == [5]

        await one.arrive(reading(2))
        while await one.receive():
            await one.drain()

        assert await one.drain() == values(*range(1, 13))
        assert await one.early() == 0


@MEMORY
async def test_a_full_line_does_not_hold_up_others(store_url: str) -> None:
    async with hands(store_url, rule(wait=timedelta(hours=1), max_buffered=1)) as one:
        mixed = [message for at in range(1, 6) for message in (reading(at + 1), reading(at, key="m-2"))]

        assert await one.arrive(*mixed) == values(*range(1, 6), key="m-2")
        assert await one.early() == 1


@MEMORY
async def test_a_full_line_is_skipped_without_waiting(store_url: str) -> None:
    async with hands(store_url, rule("skip", wait=timedelta(hours=1), max_buffered=2)) as one:
        await one.arrive(reading(3), reading(4), reading(5))
        await one.watch.round()
        await one.drain()

        assert await one.work() == values(3, 4, 5)


@EVERY_KIND
async def test_numbers_given_again_after_a_restore_are_dead_or_wait_behind_and_none_is_dropped(store_url: str) -> None:
    """The producer forgot to begin a new epoch."""
    async with hands(store_url, rule()) as one:
        before = await one.arrive(*(reading(number) for number in range(1, 21)))
        again = [reading(number, identity=f"again-{number}") for number in range(15, 21)]

        assert await one.arrive(*again, reading(21)) == before

        assert await one.dead() == [("again-15", "reused-number")]
        assert [told.reason for told in one.happenings.of(MessageDead)] == ["reused-number"]
        state = await one.box.store.run(one.box.store.holding.state())
        assert (state.blocked, state.messages) == (1, 6)
        for _ in again:
            (letter,) = await one.box.dead_letters.list()
            await one.box.dead_letters.replay(letter.id, by="ada")
            found = await one.drain()
        assert found == before + values(*range(15, 22))


@MEMORY
async def test_numbers_given_again_are_dead_one_by_one_where_dead_messages_are_skipped(store_url: str) -> None:
    async with hands(store_url, rule(), when_dead="skip") as one:
        before = await one.arrive(*(reading(number) for number in range(1, 11)))
        again = [reading(number, identity=f"again-{number}") for number in range(8, 11)]

        assert await one.arrive(*again, reading(11)) == before + values(11)

        assert sorted(await one.dead()) == sorted((message.id, "reused-number") for message in again)


@EVERY_KIND
async def test_a_new_epoch_begins_at_1_after_what_is_outstanding_of_the_old_one(store_url: str) -> None:
    new = EPOCH + 1
    async with hands(store_url, rule()) as one:
        await one.arrive(reading(1), reading(3), reading(1, epoch=new), reading(2, epoch=new))

        assert await one.arrive(reading(2)) == values(1, 2, 3, 1, 2)
        assert await one.arrive(reading(4), reading(3, epoch=new)) == values(1, 2, 3, 1, 2, 3)
        assert await one.dead() == [("m-1-7-4", "late")]
        assert await one.arrive(reading(2, identity="again")) == values(1, 2, 3, 1, 2, 3)
        assert await one.dead() == [("m-1-7-4", "late"), ("again", "reused-number")]


async def test_a_consumer_that_comes_later_begins_with_the_lowest_number_that_it_sees() -> None:
    clock = VirtualClock()
    store = sqlite_store(make_url("sqlite://"), now=clock.now)
    late = rule("hold", wait=WAIT, start="next")
    async with hands(store, late, settings=replace(SETTINGS, clock=clock)) as one:  # type: ignore[arg-type]
        assert await one.arrive(reading(502), reading(500), reading(501)) == []
        await one.watch.round()
        assert await one.drain() == []

        clock.advance(WAIT + timedelta(seconds=1))
        await one.watch.round()

        assert await one.drain() == values(500, 501, 502)
        assert [told.first for told in one.happenings.of(LineBegun)] == [500]
        assert one.happenings.of(GapFound) == []
        await one.arrive(reading(499))
        assert await one.dead() == [("m-1-7-499", "late")]
        assert await one.arrive(reading(503)) == values(500, 501, 502, 503)


@MEMORY
async def test_what_begins_at_1_does_not_wait(store_url: str) -> None:
    async with hands(store_url, rule(wait=WAIT, start="next")) as one:
        assert await one.arrive(reading(2), reading(1), reading(3)) == values(1, 2, 3)


@EVERY_KIND
async def test_a_message_that_fails_is_waited_for(store_url: str) -> None:
    retry = Retry(attempts=3, immediate=0, first=AT_ONCE)
    async with hands(store_url, rule(), fails={2: 2}, retry=retry) as one:
        assert await one.arrive(reading(3), reading(1), reading(2)) == values(1, 2, 3)
        assert await one.arrive(reading(5), reading(4)) == values(1, 2, 3, 4, 5)


@EVERY_KIND
async def test_what_is_early_again_when_its_hold_is_drained_is_not_lost(store_url: str) -> None:
    """The third waits for its retry, the sixth behind it, and what lies between has waited early: all in one run."""
    retry = Retry(attempts=3, immediate=0, first=AT_ONCE)
    async with hands(store_url, rule(), fails={3: 1}, retry=retry) as one:
        await one.arrive(reading(1), reading(2), reading(4), reading(5))
        await deliver(one.box, [reading(3)])
        await one.receive()
        await deliver(one.box, [reading(6)])
        await one.receive()

        assert await one.drain() == values(*range(1, 7))


@MEMORY
async def test_a_dead_message_is_waited_for_until_somebody_decides(store_url: str) -> None:
    retry = Retry(attempts=1)
    async with hands(store_url, rule(), fails={2: 1}, retry=retry) as one:
        assert await one.arrive(*(reading(number) for number in (1, 4, 2, 3))) == values(1)
        await one.watch.round()
        assert one.happenings.of(GapFound) == []

        (letter,) = await one.box.dead_letters.list()
        await one.box.dead_letters.replay(letter.id, by="ada")

        assert await one.drain() == values(1, 2, 3, 4)
        assert await one.arrive(reading(5)) == values(1, 2, 3, 4, 5)


@EVERY_KIND
async def test_a_dead_message_that_is_discarded_is_waited_for_no_more(store_url: str) -> None:
    async with hands(store_url, rule(), fails={2: 1}, retry=Retry(attempts=1)) as one:
        await one.arrive(*(reading(number) for number in (1, 4, 2, 5)))
        (letter,) = await one.box.dead_letters.list()

        await one.box.dead_letters.discard(letter.id, reason="a test reading", by="ada")

        assert await one.drain() == values(1)
        assert await one.arrive(reading(3)) == values(1, 3, 4, 5)


@EVERY_KIND
async def test_a_dead_message_whose_key_is_released_is_waited_for_no_more(store_url: str) -> None:
    async with hands(store_url, rule(), fails={2: 1}, retry=Retry(attempts=1)) as one:
        await one.arrive(*(reading(number) for number in (1, 4, 2, 5)))
        (letter,) = await one.box.dead_letters.list()

        await one.box.held.release(letter.consumer, letter.hold_key, reason="the others are urgent", by="ada")

        assert await one.drain() == values(1)
        assert await one.arrive(reading(3)) == values(1, 3, 4, 5)
        await one.box.dead_letters.replay(letter.id, by="ada")
        assert await one.drain() == values(1, 3, 4, 5, 2)


@MEMORY
async def test_a_dead_message_is_passed_where_dead_messages_are_skipped(store_url: str) -> None:
    async with hands(store_url, rule(), fails={2: 1}, retry=Retry(attempts=1), when_dead="skip") as one:
        assert await one.arrive(*(reading(number) for number in (1, 4, 2, 3))) == values(1, 3, 4)


@MEMORY
async def test_types_without_a_handler_count(store_url: str) -> None:
    async with hands(store_url, rule()) as one:
        other = [_other(2), _other(4), _other(4, identity="again")]

        assert await one.arrive(reading(5), other[1], reading(3), other[0], reading(1), other[2]) == values(1, 3, 5)
        assert await one.dead() == []


@MEMORY
async def test_a_message_without_a_number_is_dead_and_says_why(store_url: str) -> None:
    async with hands(store_url, rule()) as one:
        plain = reading(1, identity="plain")
        bare = {name: value for name, value in plain.headers.items() if not name.startswith("sequence")}
        await one.arrive(_changed(plain, headers=bare))

        (letter,) = await one.box.dead_letters.list()
        assert (letter.message.id, letter.reason) == ("plain", "unnumbered")
        assert "declare its type with numbered=True" in letter.error


@MEMORY
async def test_an_operator_sees_gaps_and_skips_one(store_url: str) -> None:
    async with hands(store_url, rule(wait=WAIT)) as one:
        await one.arrive(reading(1), reading(4))
        control = control_of(one.box.store)

        (gap,) = await control.gaps.list()
        assert (gap.consumer, gap.line, gap.buffered) == (CONSUMER, (CHANNEL, KEY), 1)
        closed = await control.gaps.skip(CONSUMER, CHANNEL, KEY, by="ada", reason="they are lost")

        assert (closed.first, closed.last, closed.count) == (2, 3, 1)
        assert await one.drain() == values(1, 4)
        with pytest.raises(NotFoundError):
            await control.gaps.skip(CONSUMER, CHANNEL, KEY, by="ada", reason="they are lost")


@MEMORY
async def test_an_operator_skips_no_number_that_waits_for_its_retry_unless_by_force(store_url: str) -> None:
    async with hands(store_url, rule(wait=WAIT), fails={2: 1}, retry=LATER) as one:
        await one.arrive(reading(1), reading(4), reading(2))
        control = control_of(one.box.store)

        with pytest.raises(ConflictError, match="hold of its key"):
            await control.gaps.skip(CONSUMER, CHANNEL, KEY, by="ada", reason="they are lost")
        await one.box.held.release(CONSUMER, f"k:{KEY}", by="ada", reason="it is mended")

        assert await one.drain() == values(1, 2)
        closed = await control.gaps.skip(CONSUMER, CHANNEL, KEY, by="ada", reason="it is lost")
        assert (closed.first, closed.last) == (3, 3)
        assert await one.drain() == values(1, 2, 4)
        assert await one.dead() == []


@MEMORY
async def test_an_operator_skips_no_number_that_a_handler_is_at_work_on_unless_by_force(store_url: str) -> None:
    box, happenings = make_box(store_url)
    begun, go_on, done = asyncio.Event(), asyncio.Event(), list[int]()

    @box.on(MeterRead, name="post", ordering=rule(wait=WAIT), idempotency="inbox", outside=True)
    async def post(read: MeterRead) -> None:
        if read.value == 2:
            begun.set()
            await go_on.wait()
        done.append(read.value)

    async with box:
        one = Hands(box, happenings)
        await one.begin()
        await one.arrive(reading(1), reading(4))
        control = control_of(box.store)
        await deliver(box, [reading(2)])
        async with asyncio.TaskGroup() as group:
            group.create_task(one.receive())
            await begun.wait()
            with pytest.raises(ConflictError, match="at work on number 2"):
                await control.gaps.skip(CONSUMER, CHANNEL, KEY, by="ada", reason="they are lost")
            go_on.set()

        closed = await control.gaps.skip(CONSUMER, CHANNEL, KEY, by="ada", reason="it is lost")
        await one.drain()

    assert (closed.first, closed.last, done) == (3, 3, [1, 2, 4])


@MEMORY
async def test_by_force_an_operator_skips_what_may_have_come(store_url: str) -> None:
    async with hands(store_url, rule(wait=WAIT), fails={2: 1}, retry=LATER) as one:
        await one.arrive(reading(1), reading(4), reading(2))

        closed = await control_of(one.box.store).gaps.skip(
            CONSUMER, CHANNEL, KEY, by="ada", reason="away with it", force=True
        )

        assert (closed.first, closed.last) == (2, 3)


@MEMORY
async def test_an_operator_fetches_what_is_missing(store_url: str) -> None:
    async with hands(store_url, rule(wait=WAIT)) as one:
        published = await _publish(one.box.store, 4)
        await one.arrive(published[0], published[3])

        closed = await control_of(one.box.store).gaps.fetch(CONSUMER, CHANNEL, KEY)

        assert (closed.first, closed.last, closed.count) == (2, 3, 2)
        assert await one.drain() == values(1, 2, 3, 4)


async def _publish(store: RelationalStore, count: int) -> list[Message]:
    """Publish readings; return them as they stand in the outbox, in order."""
    plain = [reading(number, identity=f"r-{number}") for number in range(1, count + 1)]
    await store.run(store.outbox.append([record_of(one, numbered=True) for one in plain]))
    found = await store.run(_all(store))
    return sorted(found, key=lambda one: int(one.headers["sequence"]))


def _all(store: RelationalStore):  # type: ignore[no-untyped-def]
    from pillarbox.relay.reader import ReadPlan
    from pillarbox.testing.contracts.harness import EVERY_SLOT

    records = yield from store.slots.read(ReadPlan(slots=EVERY_SLOT, in_flight=(), paused=(), limit=1000))
    return [record.message for record in records]


def _other(number: int, *, identity: str = "") -> Message:
    return _changed(reading(number, identity=identity), type="meter.reset")


def _changed(message: Message, **changes: object) -> Message:
    from msgspec.structs import replace as changed

    return changed(message, **changes)
