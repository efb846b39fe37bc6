"""Relays taken step by step in one process, put together as a box does it: each step is the test's to take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import update

from pillarbox.channel import BrokerCapabilities, Confirmed, MessageSender, SendResult
from pillarbox.errors import ConflictError, TransientError
from pillarbox.observe import Event as Notice
from pillarbox.observe import Observer, Observers, SettlementRefused
from pillarbox.relational.tables import leases, members
from pillarbox.relay import Relay, RelayKind, RelaySettings
from pillarbox.testing import VirtualClock
from tests.brokers import StandInBroker
from tests.fault.story import Setting, entry_in, prepare_in
from tests.history import Event
from tests.simulation.stepped import SteppedStore
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox import Pillarbox
    from pillarbox.lease import LeaseKeeper
    from pillarbox.message import Message
    from pillarbox.relay import Publication
    from tests.simulation.stepped import Step

STEP = timedelta(milliseconds=50)
"""How much time passes from one step of a relay to the next where a test drains the outbox."""

QUICK_TURNS = 100
"""How many turns follow each other without a pause; a log may take real time to tell what was committed."""


@dataclass(slots=True)
class ScriptedSender(MessageSender):
    """Remembers what it took, and what it was asked to take.

    Attributes:
        log: the entries taken, shared by the relays of a scene.
        answers: what becomes of the next messages, whichever they are.
        by_token: what becomes of an entry, one answer for each time it is sent.
        down: what everything is answered with while the broker is away.
        calls: the tokens of each call.
    """

    log: list[Event]
    answers: list[SendResult] = field(default_factory=list)
    by_token: dict[str, list[SendResult]] = field(default_factory=lambda: defaultdict(list))
    down: SendResult | None = None
    calls: list[list[str]] = field(default_factory=list)

    @property
    def capabilities(self) -> BrokerCapabilities:
        return BrokerCapabilities(ordered_prefix=False, key_affinity=True, durable=False, transactional=False)

    async def send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        entries = [entry_in(message) for message in messages]
        self.calls.append([entry.token for entry in entries])
        results = [self._answer(entry.token) for entry in entries]
        for entry, result in zip(entries, results, strict=True):
            if isinstance(result, Confirmed):
                self.log.append(Event(entry.token, entry.account, entry.seq))
        return results

    def _answer(self, token: str) -> SendResult:
        if self.down is not None:
            return self.down
        if self.answers:
            return self.answers.pop(0)
        return self.by_token[token].pop(0) if self.by_token[token] else Confirmed()


class ScriptedBroker(StandInBroker):
    """A broker whose sender a test has written."""

    def __init__(self, sender: ScriptedSender) -> None:
        super().__init__(ordered_prefix=False)
        self._sender = sender

    def sender(self) -> MessageSender:
        return self._sender


@dataclass(slots=True)
class Notices(Observer):
    """Remembers what it was told."""

    told: list[Notice] = field(default_factory=list)

    def notice(self, event: Notice, /) -> None:
        self.told.append(event)


@dataclass(slots=True)
class StepwiseRelay:
    """One relay, by its parts."""

    relay: Relay
    sender: ScriptedSender
    clock: VirtualClock

    @property
    def keeper(self) -> LeaseKeeper:
        """Its leases."""
        return self.relay._keeper

    @property
    def publication(self) -> Publication:
        """What sets its kind apart."""
        return self.relay._publication

    async def step(self) -> bool:
        """Do what one turn of its loop does; return whether there may be more at once."""
        return await self.relay._pass()

    async def publish_without_settling(self) -> None:
        """Take leases, read a batch and have it confirmed: the next step would settle it."""
        await self.keeper.keep()
        await self.publication.advance()
        await self.publication.advance()

    async def until_idle(self) -> None:
        """Publish and settle until nothing is left to be found, twice: a step may only go on to what follows."""
        while await self.step() or await self.step():
            pass

    async def until(self, wanted: Callable[[], Awaitable[bool]], *, what: str | None = None) -> None:
        """Go on, with time passing, until ``wanted``; what one turn may raise is what the loop survives."""

        async def turn() -> bool:
            with suppress(TransientError, ConflictError):
                await self.step()
            self.clock.advance(STEP)
            return await wanted()

        for _ in range(QUICK_TURNS):
            if await turn():
                return
        await wait_until(turn, timedelta(seconds=30), what=what, works=True)


@dataclass(slots=True)
class RelayScene:
    """A filled outbox and the relays on it; time stands still unless a test lets it pass."""

    box: Pillarbox
    kind: RelayKind = RelayKind.POLLING
    settings: RelaySettings = field(default_factory=lambda: RelaySettings(window=18))
    log: list[Event] = field(default_factory=list)
    notices: Notices = field(default_factory=Notices)
    clock: VirtualClock = field(default_factory=VirtualClock)
    relays: list[StepwiseRelay] = field(default_factory=list)

    @classmethod
    async def filled(
        cls,
        fill: Callable[[Pillarbox], Awaitable[None]],
        store: str = "memory://",
        kind: RelayKind = RelayKind.POLLING,
    ) -> RelayScene:
        """Make the tables and have ``fill`` write entries."""
        setting = Setting(store=store)
        box = setting.box()
        await prepare_in(box)
        await fill(box)
        return cls(box, kind)

    def relay(
        self,
        owner: str,
        *,
        kind: RelayKind | None = None,
        answers: Sequence[SendResult] = (),
        dice: float = 1.0,
        step: Step | None = None,
    ) -> StepwiseRelay:
        """Make a relay as a box would; its broker is the scene's log.

        Args:
            owner: its name among the leases.
            kind: another one than the scene's.
            answers: what becomes of the first messages that it sends.
            dice: what every throw of its dice shows.
            step: asked before each statement, and on both sides of each commit.
        """
        sender = ScriptedSender(self.log, list(answers))
        store = self.box.store
        parts = replace(
            self.box._parts(),
            store=store if step is None else SteppedStore(store, step),
            broker=ScriptedBroker(sender),
            relay=replace(self.settings, kind=kind or self.kind),
            observers=Observers([self.notices]),
            worker=owner,
            clock=self.clock,
            dice=lambda: dice,
        )
        made = StepwiseRelay(parts.relay_worker(), sender, self.clock)
        self.relays.append(made)
        return made

    async def is_drained(self) -> bool:
        """Whether nothing waits any more, neither in the outbox nor put aside."""
        state = await self.box.store.run(self.box.store.outbox.state())
        return state.pending == state.held == state.parked == 0

    async def expire_leases(self) -> None:
        """Have every lease end, as if its time were over."""
        async with self.box.transaction() as tx:
            await tx.execute(update(leases).values(expires_at=0))
            await tx.execute(update(members).values(expires_at=0))

    def sent(self) -> int:
        """Return how many copies the broker took."""
        return len(self.log)

    def tokens(self) -> list[str]:
        """Return the tokens that the broker took, in its order."""
        return [event.id for event in self.log]

    def told(self, kind: type[Notice]) -> list[Notice]:
        """Return the notices of ``kind``."""
        return [notice for notice in self.notices.told if isinstance(notice, kind)]

    def refused(self) -> int:
        """Return how many settlements were refused."""
        return sum(told.count for told in self.notices.told if isinstance(told, SettlementRefused))

    async def close(self) -> None:
        """Let the database go."""
        for one in self.relays:
            await one.publication.close()
        await self.box.store.close()
