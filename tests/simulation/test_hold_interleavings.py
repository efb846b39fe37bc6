"""A hold drained by one process while another appends to it, in every order of their statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.fault.test_concurrent_deliveries import CopyingBroker
from tests.simulation.bank import ACCOUNT, ONCE_MORE, Bank, Days, bury_the_living, empty, entry, hold, judged, look
from tests.simulation.interleaving import Actor, Schedule, play
from tests.simulation.stepped import SteppedStore

if TYPE_CHECKING:
    from pillarbox.message import Message
    from pillarbox.relational import RelationalStore
    from pillarbox.retry import Retry

HEAD, BEHIND, ARRIVING = entry(1), entry(2), entry(3)


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

    @property
    def messages(self) -> list[Message]:
        """All of them, in the key's order."""
        return [*self.held, *self.arriving]


QUIET = Situation(held=[HEAD, BEHIND], arriving=[ARRIVING])
HEAD_FAILS_AGAIN = Situation(held=[HEAD], arriving=[BEHIND], bad={f"{ACCOUNT}/1": 1})
ARRIVAL_FAILS = Situation(held=[HEAD], arriving=[BEHIND], bad={f"{ACCOUNT}/2": 1})
HEAD_DIES = Situation(held=[HEAD, BEHIND], arriving=[ARRIVING], bad={f"{ACCOUNT}/1": 9})


async def every_order(store: RelationalStore, situation: Situation) -> int:
    """Play ``situation`` in every order; return how many there were.

    Raises:
        AssertionError: names the first order that ended badly.
    """
    orders = 0
    prefix: list[int] | None = []
    async with store.engine.connect() as monitor:
        await monitor.execution_options(isolation_level="AUTOCOMMIT")
        while prefix is not None:
            days = Days(dict(situation.bad))
            await empty(store)
            await hold(store, situation.held)
            drainer, appender = Actor("drainer", touches_holds), Actor("appender", touches_holds)
            draining = _bank(SteppedStore(store, drainer.step), situation, days)
            appending = _bank(SteppedStore(store, appender.step), situation, days)
            for bank in (draining, appending):
                await bank.membership.join()
            schedule = Schedule(prefix)
            order = await play(
                [(drainer, draining.drain), (appender, lambda bank=appending: bank.arrive(situation.arriving))],
                schedule,
                monitor,
            )
            try:
                await _end_is_good(store, situation, days)
            except AssertionError as error:
                raise AssertionError(f"order {' '.join(order)}: {error}") from error
            orders += 1
            prefix = schedule.next_prefix()
    return orders


async def _end_is_good(store: RelationalStore, situation: Situation, days: Days) -> None:
    bank = _bank(store, situation, days)
    await bury_the_living(store)
    await bank.membership.join()
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
    import asyncio

    return Bank(store, days=days, retry=situation.retry, broker=CopyingBroker([], asyncio.Event()))


@pytest.mark.parametrize(
    "situation",
    [QUIET, HEAD_FAILS_AGAIN, ARRIVAL_FAILS, HEAD_DIES],
    ids=["quiet", "head-fails-again", "arrival-fails", "head-dies"],
)
async def test_a_hold_drained_while_appended_to_strands_nothing_and_keeps_order(
    store: RelationalStore, situation: Situation
) -> None:
    orders = await every_order(store, situation)

    print(f"{orders} orders")
    assert orders > 50
