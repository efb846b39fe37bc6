"""Instances join, leave, are killed and stand still for longer than their leases, over a backlog with a hot key."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from sqlalchemy import func, select

from pillarbox.relational.tables import leases
from tests import effort
from tests.fault.members import CONSUMERS, HOT, INBOX, Service, member
from tests.fault.story import applied, count_effects, effects, prepare_in, stay_open
from tests.history import Event, check
from tests.waiting import Deadline, wait_until

if TYPE_CHECKING:
    from random import Random

    from pillarbox import Pillarbox
    from tests.fault.workers import Worker, Workers

BROKERS = ["kafka", "rabbitmq", "nats", "redis", "database"]
OPTIONS = {
    "kafka": "?partitions=4&heartbeat.interval.ms=300&session.timeout.ms=5000&drain=2",
    "rabbitmq": "?heartbeat=2",
}
"""Whoever stands still is soon missed."""
LEASE = timedelta(seconds=4)
FROZEN_MS = (6_000, 8_000)
"""For longer than any lease lasts."""
ROUNDS, ENTRIES = effort.of(8, 2), effort.of(6_000, 1_500)
"""In each round every kind of harm is done once."""
AT_FIRST, AT_LAST = 0.7, 0.1
"""The shares of the entries that are there before the first harm, with one member, and that come when all is calm."""
HARMS = ("join", "leave", "kill", "freeze", "replace")
PAUSE_MS = (300, 1_500)
QUIET, DRAIN = timedelta(seconds=30), timedelta(seconds=effort.of(900, 200))
TOGETHER = 250


@pytest.mark.timeout(effort.of(1800, 300))
@pytest.mark.parametrize("run", range(effort.of(5, 1)))
@pytest.mark.parametrize("broker", BROKERS)
async def test_members_that_come_and_go_lose_nothing_keep_the_order_and_never_stand_still(
    broker: str, run: int, migrated_postgresql_url: str, request: pytest.FixtureRequest, workers: Workers, rng: Random
) -> None:
    place = "database://" if broker == "database" else request.getfixturevalue(f"{broker}_server").url
    service = Service(
        name=f"bank-{run}-{uuid4().hex[:8]}",
        store=migrated_postgresql_url.replace("postgresql://", "postgresql+psycopg://"),
        broker=place + OPTIONS.get(broker, ""),
        lease=LEASE,
    )
    box = service.box()
    box.register(service.entries())
    await prepare_in(box)
    storm = Storm(service, workers, rng)

    async with box:
        backlog = Backlog(box, service, rng)
        await storm.join()
        await backlog.write(int(ENTRIES * AT_FIRST))
        await until_some_is_handled(box)
        harms = [harm for _ in range(ROUNDS) for harm in rng.sample(HARMS, len(HARMS))]
        for harm in harms:
            await stay_open(rng.uniform(*PAUSE_MS))
            await storm.do(harm)
            await backlog.write(int(ENTRIES * (1 - AT_FIRST - AT_LAST)) // len(harms))
        await storm.calm_down()
        await until_all_is_handled(box, backlog, storm)
        await backlog.write(int(ENTRIES * AT_LAST))  # also for those who came back with nothing left to do
        await until_all_is_handled(box, backlog, storm)
        letters = await box.dead_letters.list()
        await wait_until(lambda: holds_nothing(box), DRAIN, what="an end of all holds")
        found = await applied(box.store)
        await storm.end()

    firsts = {(effect.consumer, effect.id): effect for effect in reversed(found)}
    once = sorted(firsts.values(), key=lambda effect: effect.order)
    again = Counter(effect.consumer for effect in found) - Counter(effect.consumer for effect in once)
    print(f"{harms}, {len(backlog.entries)} entries, second effects: {again}")
    assert letters == ()
    check(backlog.entries, effects=once, consumers=CONSUMERS).assert_sound()
    assert again[INBOX] == 0


class Backlog:
    """What is written, a third of it to one key."""

    def __init__(self, box: Pillarbox, service: Service, rng: Random) -> None:
        self.entries: list[Event] = []
        self._box = box
        self._kind = service.entries()
        self._rng = rng
        self._written = Counter[str]()

    @property
    def wanted(self) -> int:
        """How many effects there must be."""
        return len(self.entries) * len(CONSUMERS)

    async def write(self, count: int) -> None:
        """Publish so many entries."""
        accounts = [HOT] * 15 + [f"account-{number}" for number in range(30)]
        for start in range(0, count, TOGETHER):
            new: list[Event] = []
            for account in self._rng.choices(accounts, k=min(TOGETHER, count - start)):
                self._written[account] += 1
                new.append(Event(f"{account}-{self._written[account]}", account, self._written[account]))
            async with self._box.transaction() as tx:
                await self._box.publish_all([self._kind(one.key or "", one.seq, one.id) for one in new], tx=tx)
            self.entries += new


class Storm:
    """The members, and what is done to them; two or more of them are at work before each harm."""

    def __init__(self, service: Service, workers: Workers, rng: Random) -> None:
        self._service = service
        self._workers = workers
        self._rng = rng
        self._active: list[Worker] = []
        self._frozen: list[tuple[Worker, Deadline]] = []
        self._leaving: list[Worker] = []

    async def do(self, harm: str) -> None:
        """Do it, and thaw who has stood still for long enough."""
        self._thaw([worker for worker, until in self._frozen if until.passed])
        while len(self._active) < 2:
            await self.join()
        first = 0 if harm == "freeze" else 1  # the eldest stays, and gets back what others had for a while
        victim = self._rng.choice(self._active[first:])
        print(harm, "" if harm == "join" else victim.name)
        match harm:
            case "join":
                await self.join()
            case "leave":
                self._leave(victim)
            case "kill":
                self._active.remove(victim)
                victim.kill()
            case "freeze":
                self._active.remove(victim)
                victim.freeze()
                self._frozen.append((victim, Deadline(timedelta(milliseconds=self._rng.uniform(*FROZEN_MS)))))
            case _:
                await self.join()
                self._leave(victim)

    async def join(self) -> None:
        """Start a member."""
        worker = self._workers.start(member, self._service)
        self._active.append(worker)
        await wait_until(worker.mark.exists, DRAIN, what=f"start of {worker.name}")

    async def calm_down(self) -> None:
        """Have everybody who is left be at work, and those who leave be gone."""
        for worker, until in list(self._frozen):
            await stay_open(until.left.total_seconds() * 1000)
            self._thaw([worker])
        await self._all_have_left()
        assert [worker.name for worker in self._active if worker.exit_code is not None] == []
        if not self._active:
            await self.join()

    async def end(self) -> None:
        """Have everybody leave."""
        for worker in list(self._active):
            self._leave(worker)
        await self._all_have_left()

    async def show_tasks(self) -> None:
        """Have everybody print where each of its tasks waits; who cannot does not even turn its loop."""
        before = {worker: len(worker.output) for worker in self._active}
        for worker in before:
            worker.show_tasks()
        with suppress(AssertionError):
            await wait_until(lambda: all(len(worker.output) > size for worker, size in before.items()))

    async def _all_have_left(self) -> None:
        for worker in self._leaving:
            assert await worker.ended(DRAIN) == 0, worker.name

    def _leave(self, worker: Worker) -> None:
        self._active.remove(worker)
        self._leaving.append(worker)
        worker.terminate()

    def _thaw(self, workers: list[Worker]) -> None:
        for worker in workers:
            worker.thaw()
        self._active += workers
        self._frozen = [(worker, until) for worker, until in self._frozen if worker not in workers]


async def until_some_is_handled(box: Pillarbox) -> None:
    """Wait for the first effects: the member has joined its groups, and has read ahead."""

    async def are_there() -> bool:
        return await count_effects(box.store) > 0

    await wait_until(are_there, DRAIN, what="the first effects")


async def until_all_is_handled(box: Pillarbox, backlog: Backlog, storm: Storm) -> None:
    """Wait for an effect of every entry at every consumer; tell what lies where if nothing happens any more."""
    last, quiet = 0, Deadline(QUIET)

    async def are_there() -> bool:
        nonlocal last, quiet
        count = await count_different(box)
        if count != last:
            last, quiet = count, Deadline(QUIET)
        if quiet.passed:
            await storm.show_tasks()
            raise AssertionError(f"it stands still: {await where_it_lies(box, backlog)}")
        return count == backlog.wanted

    await wait_until(are_there, DRAIN, what=f"{backlog.wanted} effects")


async def where_it_lies(box: Pillarbox, backlog: Backlog) -> str:
    """Describe what waits: in the outbox, aside, and the first entries that no consumer has handled."""
    there = {(effect.consumer, effect.id) for effect in await applied(box.store)}
    missing = {
        (consumer, one.key): one.seq
        for consumer in CONSUMERS
        for one in reversed(backlog.entries)
        if (consumer, one.id) not in there
    }
    async with box.store.engine.connect() as connection:
        owners = [tuple(row) for row in await connection.execute(select(leases).order_by(leases.c.scope))]
    outbox, held = [await box.store.run(one.state()) for one in (box.store.outbox, box.store.holding)]
    return f"{backlog.wanted - len(there)} missing, the first of each key {missing}; {outbox}; {held}; {owners}"


async def count_different(box: Pillarbox) -> int:
    """Return how many effects there are, those of one entry at one consumer counted once."""
    different = select(effects.c.consumer, effects.c.token).distinct().subquery()
    async with box.store.engine.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(different))).scalar_one()


async def holds_nothing(box: Pillarbox) -> bool:
    """Tell whether no key is held any more."""
    state = await box.store.run(box.store.holding.state())
    return (state.keys, state.messages) == (0, 0)
