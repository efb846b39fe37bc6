"""What a process does besides: its heartbeat, replay runs, the upkeep of inboxes, and relief for the database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from pillarbox.app.assembly import Parts
from pillarbox.app.settings import Settings
from pillarbox.clock import Clock
from pillarbox.consumer import Consumer
from pillarbox.consumer.registry import ConsumerRegistry
from pillarbox.deadletter.driver import SCOPE as REPLAYS
from pillarbox.deadletter.driver import ReplayDriver
from pillarbox.idempotency.upkeep import SCOPE as INBOX
from pillarbox.idempotency.upkeep import InboxUpkeep, Purge
from pillarbox.lease import LeaseKeeper, LeaseTerms
from pillarbox.observe import Observer
from pillarbox.relational import RelationalStore
from pillarbox.relational.idempotency import WORKERS
from pillarbox.rounds import Loop, Rounds
from pillarbox.transaction import Program


class Membership(Rounds):
    """Tells the other processes that this one lives, so that its messages under way are not taken for crashed.

    And which consumers it has, so that a process of another release does not take those for gone.
    """

    def __init__(
        self, keeper: LeaseKeeper, observer: Observer, *, registry: ConsumerRegistry, consumers: Sequence[str]
    ) -> None:
        """Renew the membership of ``keeper``, and that this process has ``consumers``."""
        super().__init__("membership", every=keeper.terms.ttl / 6, clock=keeper.clock, observer=observer)
        self._keeper = keeper
        self._registry = registry
        self._consumers = consumers

    async def round(self) -> None:
        """Become a member, which a process does before it handles anything, or stay one."""
        await self._keeper.keep()
        owner, ttl = self._keeper.owner, self._keeper.terms.ttl
        await self._keeper.source.run(self._registry.attend(self._consumers, owner=owner, ttl=ttl))

    async def leave(self) -> None:
        """Sign off."""
        await self._keeper.leave()
        await self._keeper.source.run(self._registry.leave(self._consumers, owner=self._keeper.owner))


class Relief(Rounds):
    """Ends what others keep locked while they stand still, where the database does not do it by itself."""

    def __init__(self, store: RelationalStore, *, clock: Clock, observer: Observer) -> None:
        """Relieve ``store``."""
        super().__init__("relief", every=store.answer_within, clock=clock, observer=observer)
        self._store = store

    async def round(self) -> None:
        """End the connections in which the server has waited too long in the midst of a message."""
        await self._store.end_resting()


def membership_of(parts: Parts, consumers: Sequence[Consumer] = ()) -> Membership:
    """Make the heartbeat of this process, which has ``consumers``."""
    return Membership(
        _keeper(parts, WORKERS, slots=0),
        parts.observers,
        registry=parts.store.consumers,
        consumers=[one.identity for one in consumers],
    )


def relief_of(parts: Parts) -> tuple[Relief, ...]:
    """Make what ends the connections of others that stand still, where the database does not notice by itself."""
    if parts.store.traits.end_resting is None:
        return ()
    return (Relief(parts.store, clock=parts.clock, observer=parts.observers),)


def replay_driver(parts: Parts) -> ReplayDriver:
    """Make what works off replay runs, in one process at a time."""
    keeper = _keeper(parts, REPLAYS, slots=1)
    return ReplayDriver(
        runs=parts.store.operators.runs,
        batches=parts.store.operators.batches,
        keeper=keeper,
        observer=parts.observers,
    )


def upkeep_of(parts: Parts, settings: Settings) -> tuple[Loop, ...]:
    """Make what removes old ids from the inboxes, and sagas that ended, in one process at a time."""
    store, keep_sagas, keep = parts.store, settings.keep_sagas, settings.inbox.keep
    others: list[Purge] = []
    if keep is not None:
        tables = (store.attempts, store.claims, store.operations, store.calls, store.participations)
        others += [table.purge for table in tables]
    if keep_sagas is not None:

        def purge_sagas(older_than: timedelta, *, limit: int) -> Program[int]:
            """Remove those that ended; how old ids may be says nothing of them."""
            return store.sagas.purge(parts.service, keep_sagas, limit=limit)

        others.append(purge_sagas)
    if not others:
        return ()
    upkeep = InboxUpkeep(
        inbox=None if keep is None else store.inbox,
        others=others,
        keep=keep or timedelta(0),
        keeper=_keeper(parts, INBOX, slots=1),
        observer=parts.observers,
    )
    return (upkeep,)


def _keeper(parts: Parts, scope: str, *, slots: int) -> LeaseKeeper:
    terms = LeaseTerms(scope=scope, slots=slots, ttl=parts.relay.lease)
    return LeaseKeeper(terms, parts.worker, store=parts.store.leases, source=parts.store, clock=parts.clock)
