"""Relays taken step by step in one process, on a store in memory: each step is the test's to take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import update

from pillarbox.app.system_clock import SystemClock
from pillarbox.channel import BrokerCapabilities, Confirmed, MessageSender, SendResult
from pillarbox.lease import LeaseKeeper, LeaseTerms
from pillarbox.observe import Event as Notice
from pillarbox.observe import Observer, SettlementRefused
from pillarbox.relational.tables import leases, members
from pillarbox.relay import SCOPE, RelaySettings, SendingPublication, SlotReader
from tests.fault.story import Setting, entry_in, prepare_in
from tests.history import Event

if TYPE_CHECKING:
    from pillarbox import Pillarbox
    from pillarbox.message import Message


@dataclass(slots=True)
class ScriptedSender(MessageSender):
    """Remembers what it took; ``answers`` says what becomes of the messages, one after the other."""

    log: list[Event]
    answers: list[SendResult] = field(default_factory=list)

    @property
    def capabilities(self) -> BrokerCapabilities:
        return BrokerCapabilities(ordered_prefix=False, key_affinity=True, durable=False, transactional=False)

    async def send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        results: list[SendResult] = []
        for message in messages:
            result = self.answers.pop(0) if self.answers else Confirmed()
            if isinstance(result, Confirmed):
                entry = entry_in(message)
                self.log.append(Event(entry.token, entry.account, entry.seq))
            results.append(result)
        return results


@dataclass(slots=True)
class Notices(Observer):
    """Remembers what it was told."""

    told: list[Notice] = field(default_factory=list)

    def notice(self, event: Notice, /) -> None:
        self.told.append(event)


@dataclass(slots=True)
class StepwiseRelay:
    """One relay, by its parts."""

    keeper: LeaseKeeper
    publication: SendingPublication

    async def publish_without_settling(self) -> None:
        """Take leases, read a batch and have it confirmed: the next step would settle it."""
        await self.keeper.keep()
        await self.publication.advance()
        await self.publication.advance()

    async def until_idle(self) -> None:
        """Publish and settle until nothing is left to be found."""
        await self.keeper.keep()
        while await self.publication.advance():
            pass


@dataclass(slots=True)
class RelayScene:
    """A filled outbox in memory and the relays on it."""

    box: Pillarbox
    settings: RelaySettings = field(default_factory=lambda: RelaySettings(window=18))
    log: list[Event] = field(default_factory=list)
    notices: Notices = field(default_factory=Notices)

    @classmethod
    async def filled(cls, fill: Callable[[Pillarbox], Awaitable[None]], store: str = "memory://") -> RelayScene:
        """Make the tables and have ``fill`` write entries."""
        setting = Setting(store=store)
        box = setting.box()
        await prepare_in(box)
        await fill(box)
        return cls(box)

    def publication(
        self,
        owner: str,
        *,
        kind: type[SendingPublication] = SendingPublication,
        reader: SlotReader | None = None,
        answers: Sequence[SendResult] = (),
    ) -> StepwiseRelay:
        """Make a relay."""
        store = self.box.store
        terms = LeaseTerms(scope=SCOPE, ttl=self.settings.lease)
        keeper = LeaseKeeper(terms, owner, store=store.leases, source=store, clock=SystemClock())
        publication = kind(
            sender=ScriptedSender(self.log, list(answers)),
            reader=reader or store.slots,
            keeper=keeper,
            settings=self.settings,
            observer=self.notices,
        )
        return StepwiseRelay(keeper, publication)

    async def expire_leases(self) -> None:
        """Have every lease end, as if its time were over."""
        async with self.box.transaction() as tx:
            await tx.execute(update(leases).values(expires_at=0))
            await tx.execute(update(members).values(expires_at=0))

    def sent(self) -> int:
        """Return how many copies the broker took."""
        return len(self.log)

    def refused(self) -> int:
        """Return how many settlements were refused."""
        return sum(told.count for told in self.notices.told if isinstance(told, SettlementRefused))

    async def close(self) -> None:
        """Let the database go."""
        await self.box.store.close()
