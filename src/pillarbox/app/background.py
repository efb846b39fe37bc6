"""What a box that consumes does besides: its heartbeat, replay runs, and the upkeep of its inboxes."""

from __future__ import annotations

from pillarbox.app.assembly import Parts, Worker
from pillarbox.app.membership import Membership
from pillarbox.deadletter.driver import SCOPE as REPLAYS
from pillarbox.deadletter.driver import ReplayDriver
from pillarbox.idempotency import InboxSettings
from pillarbox.idempotency.upkeep import SCOPE as INBOX
from pillarbox.idempotency.upkeep import InboxUpkeep
from pillarbox.lease import LeaseKeeper, LeaseTerms
from pillarbox.relational.idempotency import WORKERS


def membership_of(parts: Parts) -> Membership:
    """Make the heartbeat of this process."""
    return Membership(_keeper(parts, WORKERS, slots=0), clock=parts.clock)


def replay_driver(parts: Parts) -> ReplayDriver:
    """Make what works off replay runs, in one process at a time."""
    keeper = _keeper(parts, REPLAYS, slots=1)
    return ReplayDriver(runs=parts.store.operators.runs, keeper=keeper, observer=parts.observers)


def inbox_upkeep(parts: Parts, settings: InboxSettings) -> tuple[Worker, ...]:
    """Make what removes old ids from the inboxes, in one process at a time; nothing where they are kept for ever."""
    if settings.keep is None:
        return ()
    store = parts.store
    upkeep = InboxUpkeep(
        inbox=store.inbox,
        others=[part.purge for part in (store.attempts, store.claims, store.operations, store.calls)],
        keep=settings.keep,
        keeper=_keeper(parts, INBOX, slots=1),
        observer=parts.observers,
    )
    return (upkeep,)


def _keeper(parts: Parts, scope: str, *, slots: int) -> LeaseKeeper:
    terms = LeaseTerms(scope=scope, slots=slots, ttl=parts.relay.lease)
    return LeaseKeeper(terms, parts.worker, store=parts.store.leases, source=parts.store, clock=parts.clock)
