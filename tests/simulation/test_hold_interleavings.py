"""A hold drained by one process while another appends to it, in every order of their statements.

Where a test says so, by default only in some orders that the dice choose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update

from pillarbox.errors import ConflictError
from pillarbox.relational.holding import END, GIVE_BACK, RelationalHoldingStore
from pillarbox.relational.tables import holds
from pillarbox.transaction import Execute
from tests import effort
from tests.fault.copying import CopyingBroker
from tests.simulation.bank import ACCOUNT, ONCE_MORE, Bank, Days, bury_the_living, empty, entry, hold, judged, look
from tests.simulation.interleaving import Actor, Schedule, every_schedule, play, some_schedules
from tests.simulation.stepped import SteppedStore

if TYPE_CHECKING:
    from random import Random

    from pillarbox.message import Message
    from pillarbox.relational import RelationalStore
    from pillarbox.retry import Retry
    from pillarbox.transaction import Program

HEAD, BEHIND, ARRIVING = entry(1), entry(2), entry(3)
SOME = 24


def touches_holds(what: str) -> bool:
    """Tell whether a statement, or a commit of statements, reads or writes holds or what they hold."""
    return "pillarbox_hold" in what or "pillarbox_held" in what


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is held, what arrives, and what fails how often."""

    held: Sequence[Message]
    arriving: Sequence[Message]
    bad: dict[str, int] = field(default_factory=dict)
    retry: Retry = ONCE_MORE
    max_held: int | None = None

    @property
    def messages(self) -> list[Message]:
        """All of them, in the key's order."""
        return [*self.held, *self.arriving]


QUIET = Situation(held=[HEAD, BEHIND], arriving=[ARRIVING])
FULL = Situation(held=[HEAD, BEHIND], arriving=[ARRIVING, entry(4)], max_held=2)
HEAD_FAILS_AGAIN = Situation(held=[HEAD], arriving=[BEHIND], bad={f"{ACCOUNT}/1": 1})
ARRIVAL_FAILS = Situation(held=[HEAD], arriving=[BEHIND], bad={f"{ACCOUNT}/2": 1})
HEAD_DIES = Situation(held=[HEAD, BEHIND], arriving=[ARRIVING], bad={f"{ACCOUNT}/1": 9})


async def play_all(
    schedules: Iterator[Schedule],
    store: RelationalStore,
    situation: Situation,
    *,
    holding: type[RelationalHoldingStore] = RelationalHoldingStore,
) -> Sequence[bool]:
    """Play ``situation`` by all ``schedules``, the drainer with ``holding``; return of each if there was no room.

    Raises:
        AssertionError: names the first order that ended badly.
    """
    orders: list[bool] = []
    async with store.engine.connect() as monitor:
        await monitor.execution_options(isolation_level="AUTOCOMMIT")
        for schedule in schedules:
            days = Days(dict(situation.bad))
            await empty(store)
            await hold(store, situation.held)
            drainer, appender = Actor("drainer", touches_holds), Actor("appender", touches_holds)
            drainers_store = SteppedStore(store, drainer.step)
            drainers_store.holding = holding()
            draining = _bank(drainers_store, situation, days)
            appending = _bank(SteppedStore(store, appender.step), situation, days)
            for bank in (draining, appending):
                await bank.membership.round()
            order = await play(
                [(drainer, draining.drain), (appender, partial(appending.arrive, situation.arriving))],
                schedule,
                monitor,
            )
            try:
                await _end_is_good(store, situation, days, appending.returned)
            except AssertionError as error:
                raise AssertionError(f"order {' '.join(order)}: {error}") from error
            orders.append(bool(appending.returned))
    return orders


async def _end_is_good(
    store: RelationalStore, situation: Situation, days: Days, returned: Sequence[Message] = ()
) -> None:
    bank = _bank(store, situation, days)
    await bury_the_living(store)
    await bank.membership.round()
    while await bank.drain():
        pass
    await bank.arrive(returned)  # as the channel delivers them again
    while await bank.drain():
        pass
    found = await look(store)
    if found.dead:
        assert found.dead == {HEAD.id}
        assert found.held == {BEHIND.id, ARRIVING.id}, "what is behind a dead message waits, and nothing else"
        assert found.with_effect == ()
    else:
        assert (found.held, found.open_holds) == (frozenset(), 0), "something is stranded"
        (await judged(store, situation.messages)).assert_sound()


def _bank(store: RelationalStore, situation: Situation, days: Days) -> Bank:
    broker = CopyingBroker([], asyncio.Event())
    return Bank(store, days=days, retry=situation.retry, broker=broker, max_held=situation.max_held)


@pytest.mark.parametrize(
    "situation",
    [QUIET, HEAD_FAILS_AGAIN, ARRIVAL_FAILS, HEAD_DIES],
    ids=["quiet", "head-fails-again", "arrival-fails", "head-dies"],
)
async def test_a_hold_drained_while_appended_to_strands_nothing_and_keeps_order(
    store: RelationalStore, situation: Situation, rng: Random
) -> None:
    """By default in some orders that the dice choose."""
    orders = await play_all(every_schedule() if effort.THOROUGH else some_schedules(SOME, rng), store, situation)

    print(f"{len(orders)} orders")
    assert len(orders) >= SOME


async def test_a_full_hold_drained_while_messages_come_strands_nothing_and_keeps_order(
    store: RelationalStore, rng: Random
) -> None:
    """What there is no room for is delivered again afterwards; by default in the first orders, and some by dice."""
    some = chain(islice(every_schedule(), SOME // 2), some_schedules(SOME // 2, rng))
    orders = await play_all(every_schedule() if effort.THOROUGH else some, store, FULL)

    print(f"{len(orders)} orders, no room in {sum(orders)}")
    assert True in orders
    assert False in orders


class UnlockedFinish(RelationalHoldingStore):
    """Ends what looks empty, without waiting for those that are appending."""

    def finish(self, consumer: str, *, token: str) -> Program[int]:
        mine = {"by": consumer, "by_token": token}
        ended = yield Execute(END, mine)
        yield Execute(GIVE_BACK, mine)
        return len(ended)


async def test_ending_a_hold_without_its_lock_strands_what_is_appended(store: RelationalStore) -> None:
    with pytest.raises(AssertionError, match="something is stranded"):
        await play_all(every_schedule(), store, QUIET, holding=UnlockedFinish)


TAKE_OVER = "take over"


@pytest.mark.parametrize("situation", [QUIET, HEAD_FAILS_AGAIN], ids=["quiet", "head-fails-again"])
async def test_a_hold_taken_over_at_any_step_is_drained_once_and_in_order(
    store: RelationalStore, situation: Situation
) -> None:
    orders = refused = 0
    async with store.engine.connect() as monitor:
        await monitor.execution_options(isolation_level="AUTOCOMMIT")
        for schedule in every_schedule():
            days = Days(dict(situation.bad))
            await empty(store)
            await hold(store, situation.held)
            slow, heir = Actor("slow", lambda _: True), Actor("heir", TAKE_OVER.__eq__)
            owner = _bank(SteppedStore(store, slow.step), situation, days)
            await _bank(store, situation, days).membership.round()
            drained = Drained(owner)
            await play(
                [(slow, drained.drain), (heir, partial(take_over, heir, _bank(store, situation, days), store))],
                schedule,
                monitor,
            )
            await _bank(store, situation, days).arrive(situation.arriving)
            await _end_is_good(store, situation, days)
            orders, refused = orders + 1, refused + drained.refused

    print(f"{orders} orders, {refused} times refused")
    assert refused > 0


@dataclass(slots=True)
class Drained:
    """A round that may find out that its leases are lost."""

    bank: Bank
    refused: bool = False

    async def drain(self) -> None:
        """Drain once."""
        try:
            await self.bank.drain()
        except ConflictError:
            self.refused = True


async def take_over(heir: Actor, bank: Bank, store: RelationalStore) -> None:
    """Have the leases end when it is the heir's turn, and drain in its name."""
    await heir.step(TAKE_OVER)
    async with store.begin() as transaction:
        await transaction.connection.execute(update(holds).values(lease_until=0))
    await bank.membership.round()
    await bank.drain()
