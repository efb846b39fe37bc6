"""Semantic locks in SQL: one row for each thing that a saga has locked."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import BigInteger, bindparam, delete, literal, select, update

from pillarbox.errors import ConflictError
from pillarbox.relational.expressions import MICROSECONDS, any_of, insert_into, micros, now_us, texts
from pillarbox.relational.saga_tables import saga_locks
from pillarbox.saga.locks import LockHolder, SagaLockStore, Taken
from pillarbox.saga.store import SagaKey, identity_of
from pillarbox.transaction import Execute, Program

NEW = 0
"""When a lock expires that is there since a moment, and has not been given its time yet."""
ROUNDS = 10
"""So often a lock is asked for that its owner lets go of between the two statements."""
_lock = saga_locks.c
RESOURCE = bindparam("of_resource", type_=_lock.resource.type)
OWNER = bindparam("by_owner", type_=_lock.owner.type)
ENTER = (  # primary key; whoever is just taking the same lock is waited for
    insert_into(saga_locks)
    .from_select(["resource", "owner", "expires_at"], select(RESOURCE, OWNER, literal(NEW, BigInteger)))
    .on_conflict_do_nothing()
)
LOOK = (  # primary key
    select(_lock.owner, _lock.expires_at, _lock.expires_at - now_us()).where(_lock.resource == RESOURCE)
)
LOOK_AND_LOCK = LOOK.with_for_update()
TAKE = (  # primary key
    update(saga_locks)
    .where(_lock.resource == RESOURCE)
    .values(owner=OWNER, expires_at=now_us() + bindparam("expires_us", type_=BigInteger))
)
RELEASE = delete(saga_locks).where(any_of(_lock.owner, texts("owners")))  # index on (owner)


class RelationalSagaLockStore(SagaLockStore):
    """Locks as rows, each with its owner and the instant at which it expires."""

    def take(self, owner: SagaKey, resource: str, *, expires_after: timedelta) -> Program[Taken]:
        """Insert, look at the row, whoever inserted it, and write a new end where that is allowed.

        Raises:
            ConflictError: whoever had the lock let it go between the two, again and again; nothing was written.
        """
        mine = {"of_resource": resource, "by_owner": identity_of(owner)}
        for _ in range(ROUNDS):
            yield Execute(ENTER, mine)
            found = yield Execute(LOOK_AND_LOCK, {"of_resource": resource})
            if found:
                break
        else:
            raise ConflictError(f"the lock on {resource!r} was let go each time it was looked at; ask again")
        was_mine, expires_at, left_us = found[0][0] == mine["by_owner"], found[0][1], found[0][2]
        if not was_mine and left_us > 0:
            return Taken(holder=_holder_of(found[0][0], left_us), was_held=False)
        yield Execute(TAKE, {**mine, "expires_us": micros(expires_after)})
        return Taken(holder=None, was_held=was_mine and expires_at != NEW)

    def holder(self, resource: str) -> Program[LockHolder | None]:
        """Select it."""
        found = yield Execute(LOOK, {"of_resource": resource})
        if not found or found[0][2] <= 0:
            return None
        return _holder_of(found[0][0], found[0][2])

    def release(self, owners: Sequence[SagaKey]) -> Program[None]:
        """Delete by owner."""
        yield Execute(RELEASE, {"owners": sorted(map(identity_of, owners))})


def _holder_of(owner: str, left_us: int) -> LockHolder:
    saga, _, saga_id = owner.partition(":")
    return LockHolder(saga=saga, saga_id=saga_id, expires_in=timedelta(seconds=left_us / MICROSECONDS))
