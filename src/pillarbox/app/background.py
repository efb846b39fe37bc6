"""What a box that consumes does besides: its heartbeat, replay runs, and the upkeep of its inboxes."""

from __future__ import annotations

from datetime import timedelta

from pillarbox.app.assembly import Parts, Worker
from pillarbox.app.membership import Membership
from pillarbox.app.relieving import Relief
from pillarbox.app.settings import Settings
from pillarbox.deadletter.driver import SCOPE as REPLAYS
from pillarbox.deadletter.driver import ReplayDriver
from pillarbox.idempotency.upkeep import SCOPE as INBOX
from pillarbox.idempotency.upkeep import InboxUpkeep, Purge
from pillarbox.lease import LeaseKeeper, LeaseTerms
from pillarbox.relational.idempotency import WORKERS
from pillarbox.transaction import Program


def membership_of(parts: Parts) -> Membership:
    """Make the heartbeat of this process."""
    return Membership(_keeper(parts, WORKERS, slots=0), clock=parts.clock)


def relief_of(parts: Parts) -> tuple[Relief, ...]:
    """Make what ends the connections of others that stand still, where the database does not notice by itself."""
    if parts.store.traits.end_resting is None:
        return ()
    return (Relief(parts.store.end_resting, every=parts.store.answer_within, clock=parts.clock),)


def replay_driver(parts: Parts) -> ReplayDriver:
    """Make what works off replay runs, in one process at a time."""
    keeper = _keeper(parts, REPLAYS, slots=1)
    return ReplayDriver(
        runs=parts.store.operators.runs,
        batches=parts.store.operators.batches,
        keeper=keeper,
        observer=parts.observers,
    )


def upkeep_of(parts: Parts, settings: Settings) -> tuple[Worker, ...]:
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
