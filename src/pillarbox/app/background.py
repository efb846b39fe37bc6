"""What a process does besides: replay runs, the upkeep of inboxes, and relief for the database."""

from __future__ import annotations

from datetime import timedelta

from pillarbox.app.assembly import Parts
from pillarbox.app.settings import Settings
from pillarbox.clock import Clock
from pillarbox.deadletter.driver import SCOPE as REPLAYS
from pillarbox.deadletter.driver import ReplayDriver
from pillarbox.idempotency.upkeep import SCOPE as INBOX
from pillarbox.idempotency.upkeep import InboxUpkeep, Purge
from pillarbox.lease import LeaseKeeper, LeaseTerms
from pillarbox.observe import Observer
from pillarbox.relational import RelationalStore
from pillarbox.rounds import Loop, Rounds
from pillarbox.transaction import Program


class Relief(Rounds):
    """Ends what others keep locked while they stand still, where the database does not do it by itself."""

    def __init__(self, store: RelationalStore, *, clock: Clock, observer: Observer) -> None:
        """Relieve ``store``."""
        super().__init__("relief", every=store.answer_within, clock=clock, observer=observer)
        self._store = store

    async def round(self) -> None:
        """End the connections in which the server has waited too long in the midst of a message."""
        await self._store.end_resting()


def relief_of(parts: Parts) -> tuple[Relief, ...]:
    """Make what ends the connections of others that stand still, where the database does not notice by itself."""
    if parts.store.traits.end_resting is None:
        return ()
    return (Relief(parts.store, clock=parts.clock, observer=parts.observers),)


def replay_driver(parts: Parts) -> ReplayDriver:
    """Make what works off replay runs, in one process at a time."""
    keeper = keeper_of(parts, REPLAYS, slots=1)
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
        keeper=keeper_of(parts, INBOX, slots=1),
        observer=parts.observers,
    )
    return (upkeep,)


def keeper_of(parts: Parts, scope: str, *, slots: int) -> LeaseKeeper:
    """Make what keeps this process a member of ``scope``, with up to ``slots`` of it."""
    terms = LeaseTerms(scope=scope, slots=slots, ttl=parts.relay.lease)
    return LeaseKeeper(terms, parts.worker, store=parts.store.leases, source=parts.store, clock=parts.clock)
