"""A process that ends, or a database that goes away, at any step of a call to the outside."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete, update

from pillarbox.clock import Clock
from pillarbox.errors import InDoubtError, StoreUnavailableError
from pillarbox.idempotency.outside_calls import OutsideCalls
from pillarbox.message import new_message_id
from pillarbox.relational.tables import outside_calls
from pillarbox.serialization import JsonCodec
from tests import effort
from tests.simulation.stepped import Step, SteppedStore

if TYPE_CHECKING:
    from random import Random

    from pillarbox.relational import RelationalStore

KEY = "shop/charge:m1:card"
HOLD = timedelta(minutes=5)
DAY = timedelta(hours=24)


class Crash(BaseException):  # nothing may catch it
    """The process ends here."""


class DeclinedError(Exception):
    """The card was declined: nothing was charged."""


@dataclass(slots=True)
class Fuse:
    """Fails at step number ``at``, counted from 0, with what is said; counts the steps until then."""

    at: int
    fail: BaseException
    steps: int = 0
    blown_before: str = ""

    async def step(self, what: str) -> None:
        """Burn down by one."""
        self.steps += 1
        if self.steps == self.at + 1:
            self.blown_before = what
            raise self.fail


@dataclass(slots=True)
class Provider:
    """The other side: what it has charged, and under which keys."""

    knows_keys: bool
    declines: int = 0
    charges: int = 0
    answers: dict[str, str] = field(default_factory=dict)

    async def charge(self, key: str, step: Step) -> str:
        """Charge, once per key if keys are known; each way to the other side and back is a step."""
        await step("the request leaves")
        if self.declines:
            self.declines -= 1
            raise DeclinedError
        if not (self.knows_keys and key in self.answers):
            self.charges += 1
            self.answers[key] = f"charge {self.charges}"
        await step("the answer is on its way")
        return self.answers[key]


class Impatient(Clock):
    """Time in which every pause is over at once, and no hold has to be renewed."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, duration: timedelta) -> None:
        if duration == HOLD / 3:
            await asyncio.Event().wait()
        await asyncio.sleep(0)


async def no_step(what: str) -> None:
    """Go on."""


async def charge_once(store: RelationalStore, provider: Provider, step: Step = no_step) -> str:
    """Make the call as a process on ``store`` does."""
    calls = calls_on(store)
    answer: str = await calls.once(
        KEY,
        lambda key: provider.charge(key, step),
        answer=str,
        remembered_for=DAY if provider.knows_keys else None,
        failed=(DeclinedError,),
    )
    return answer


def calls_on(store: RelationalStore) -> OutsideCalls:
    return OutsideCalls(
        store.calls, source=store, codec=JsonCodec(), clock=Impatient(), new_token=new_message_id, hold=HOLD
    )


async def fail_at_every_step(store: RelationalStore, fail: BaseException, provider: Provider, rng: Random) -> int:
    """Fail at each step in turn, then recover; return how many steps there were.

    By default every third step, from one that the dice choose.
    """
    stride = effort.of(1, 3)
    at = rng.randrange(stride)
    while True:
        other_side = replace(provider, answers={})
        async with store.begin() as tx:
            await tx.connection.execute(delete(outside_calls))
        fuse = Fuse(at, fail)
        with suppress(Crash, StoreUnavailableError, DeclinedError, InDoubtError):
            await charge_once(SteppedStore(store, fuse.step), other_side, fuse.step)
        try:
            await _recovers(store, other_side)
        except AssertionError as error:
            raise AssertionError(f"{provider}, failure at step {at}, before {fuse.blown_before}: {error}") from error
        if fuse.steps <= at:
            return at
        at += stride


async def _recovers(store: RelationalStore, provider: Provider) -> None:
    """The next try has the one answer; or a person is asked, who knows what the other side has charged."""
    async with store.begin() as tx:
        await tx.connection.execute(update(outside_calls).values(held_until=0))
    answer = None
    for _ in range(3):
        try:
            answer = answer or await charge_once(store, provider)
        except DeclinedError:
            continue
        except InDoubtError:
            assert not provider.knows_keys, "with a key it can be repeated"
            assert [one.key for one in await calls_on(store).in_doubt()] == [KEY]
            if provider.charges:
                await calls_on(store).record(KEY, provider.answers[KEY])
            else:
                await calls_on(store).allow(KEY)

    assert (answer, provider.charges) == ("charge 1", 1)
    assert await charge_once(store, provider) == "charge 1"
    assert provider.charges == 1


@pytest.mark.parametrize("fail", [Crash(), StoreUnavailableError(store="it", reason="gone")], ids=["crash", "away"])
@pytest.mark.parametrize("store", ["psycopg", "mariadb", "sqlite"], indirect=True)
async def test_a_failure_at_any_step_of_a_call_charges_once(
    store: RelationalStore, fail: BaseException, rng: Random
) -> None:
    for knows_keys, declines in product([True, False], [0, 1]):
        provider = Provider(knows_keys=knows_keys, declines=declines)

        steps = await fail_at_every_step(store, fail, provider, rng)

        assert steps >= 8
