"""Inbox, attempts and claims in SQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Executable,
    SmallInteger,
    String,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    update,
)

from pillarbox.deadletter import DeadLetterState
from pillarbox.idempotency import AttemptStore, ClaimStore, InboxStore, Suspect, Trial
from pillarbox.relational.expressions import any_of, insert_into, micros, now_us, texts, values_of
from pillarbox.relational.tables import attempts, claims, dead_letters, held, inbox, members
from pillarbox.transaction import Execute, Program, Rows

WORKERS = "workers"
"""The lease scope whose members are the live worker processes."""

BY = bindparam("by", type_=String)
WORKER = bindparam("worker_name", type_=String)
IDS = texts("ids")
_id = values_of(IDS, String()).c.value

RECORD = (  # the primary key decides; a concurrent transaction with the same id is waited for
    insert_into(inbox)
    .from_select(["consumer", "message_id", "processed_at"], select(BY, _id, now_us()).where(text("true")))
    .on_conflict_do_nothing()
    .returning(inbox.c.message_id)
)
FORGET = delete(inbox).where(inbox.c.consumer == BY, any_of(inbox.c.message_id, IDS))
PROCESSED = select(inbox.c.message_id).where(inbox.c.consumer == BY, any_of(inbox.c.message_id, IDS))
AGE, UP_TO = bindparam("age_us", type_=BigInteger), bindparam("up_to", type_=BigInteger)


SETTLED = (DeadLetterState.RESOLVED, DeadLetterState.DISCARDED)


def _none_of(table: Table, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the condition that a row of the inbox has none with its id in ``table``.

    A count and no EXISTS: PostgreSQL would turn that into a join that reads both tables whole.
    """
    rows = select(func.count()).select_from(table)
    ours = rows.where(table.c.consumer == inbox.c.consumer, table.c.message_id == inbox.c.message_id, *conditions)
    return ours.scalar_subquery() == literal_column("0")


def removable(before: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition that a row of the inbox was written until ``before`` and need not be kept."""
    settled: list[ColumnElement[str]] = [literal_column(f"'{state}'", String) for state in SETTLED]
    return and_(
        inbox.c.processed_at.between(bindparam("first_instant", 0, type_=BigInteger), before),  # planned as narrow
        _none_of(held),
        _none_of(dead_letters, dead_letters.c.state.not_in(settled)),
    )


NOW = select(now_us())
OLDEST = (  # index on processed_at; unique indexes on (consumer, message_id)
    select(inbox.c.consumer, inbox.c.message_id)
    .where(removable(bindparam("instant", type_=BigInteger)))  # a bound value: the clock itself is no range of an index
    .order_by(inbox.c.processed_at)
    .limit(UP_TO)
    .with_for_update(skip_locked=True)
)

START = (
    insert_into(attempts)
    .from_select(
        ["consumer", "message_id", "worker", "trial", "crashes", "started_at"],
        select(BY, _id, WORKER, literal(0), literal(0), now_us()).where(text("true")),
    )
    .on_conflict_do_nothing()
    .returning(attempts.c.message_id)
)
_lives = exists().where(
    members.c.scope == WORKERS, members.c.owner == attempts.c.worker, members.c.expires_at > now_us()
)
LEFT_BEHIND = select(attempts.c.message_id, attempts.c.crashes, attempts.c.trial).where(
    attempts.c.consumer == BY, any_of(attempts.c.message_id, IDS), attempts.c.worker != WORKER, ~_lives
)
CRASHED_ALONE = (  # the dead worker handled this one alone: the crash is the message's own
    update(attempts)
    .where(
        attempts.c.consumer == BY,
        any_of(attempts.c.message_id, IDS),
        attempts.c.trial == int(Trial.ALONE),
        attempts.c.worker != WORKER,
        ~_lives,
    )
    .values(crashes=attempts.c.crashes + 1)
)
TAKE = (
    update(attempts)
    .where(attempts.c.consumer == BY, any_of(attempts.c.message_id, IDS))
    .values(worker=WORKER, trial=bindparam("new_trial", type_=SmallInteger), started_at=now_us())
    .returning(attempts.c.crashes)
)
CLEAR = delete(attempts).where(attempts.c.consumer == BY, any_of(attempts.c.message_id, IDS))


def _chosen(table: Table, is_left: ColumnElement[bool]) -> Executable:
    """Choose rows of a table that holds only what is under way, and so is small enough to be read as a whole."""
    columns = (table.c.consumer, table.c.message_id)
    return select(*columns).where(is_left).limit(UP_TO).with_for_update(skip_locked=True)


OLD_ATTEMPTS = _chosen(attempts, and_(attempts.c.started_at < now_us() - AGE, ~_lives))
OLD_CLAIMS = _chosen(claims, claims.c.expires_at < now_us() - AGE)
DROP_CLAIM = delete(claims).where(claims.c.consumer == BY, any_of(claims.c.message_id, IDS))

_claim = insert_into(claims).from_select(
    ["consumer", "message_id", "token", "expires_at"],
    select(BY, _id, bindparam("by_token", type_=String), now_us() + bindparam("ttl_us", type_=BigInteger)).where(
        ~exists().where(and_(inbox.c.consumer == BY, inbox.c.message_id == _id))
    ),
)
CLAIM = _claim.on_conflict_do_update(
    index_elements=["consumer", "message_id"],
    set_={"token": _claim.excluded.token, "expires_at": _claim.excluded.expires_at},
    where=or_(claims.c.expires_at <= now_us(), claims.c.token == _claim.excluded.token),
).returning(claims.c.message_id)
RENEW = (
    update(claims)
    .where(
        claims.c.consumer == BY,
        any_of(claims.c.message_id, IDS),
        claims.c.token == bindparam("by_token", type_=String),
    )
    .values(expires_at=now_us() + bindparam("ttl_us", type_=BigInteger))
)
RELEASE = (
    delete(claims)
    .where(
        claims.c.consumer == BY,
        any_of(claims.c.message_id, IDS),
        claims.c.token == bindparam("by_token", type_=String),
    )
    .returning(claims.c.message_id)
)


def _each(rows: Rows, remove: Executable) -> Program[int]:
    """Remove the rows of ``(consumer, message id)``, which this transaction has locked."""
    by_consumer: dict[str, list[str]] = {}
    for consumer, message_id in rows:
        by_consumer.setdefault(consumer, []).append(message_id)
    for consumer, message_ids in sorted(by_consumer.items()):
        yield Execute(remove, {"by": consumer, "ids": message_ids})
    return len(rows)


def _ids(rows: Sequence[Sequence[str]]) -> frozenset[str]:
    return frozenset(row[0] for row in rows)


class RelationalInboxStore(InboxStore):
    """Processed ids, each a row whose primary key is (consumer, message id)."""

    def record(self, consumer: str, message_ids: Sequence[str]) -> Program[Collection[str]]:
        """Insert in sorted order, so that two runs with common ids cannot wait for each other."""
        return _ids((yield Execute(RECORD, {"by": consumer, "ids": sorted(message_ids)})))

    def forget(self, consumer: str, message_ids: Sequence[str]) -> Program[None]:
        """Delete what this transaction inserted."""
        yield Execute(FORGET, {"by": consumer, "ids": list(message_ids)})

    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Lock the oldest that nobody else is at, then delete them."""
        before = int((yield Execute(NOW))[0][0]) - micros(older_than)
        old = yield Execute(OLDEST, {"instant": before, "up_to": limit})
        return (yield from _each(old, FORGET))


class RelationalAttemptStore(AttemptStore):
    """Messages under way; a row of a worker that is no member any more is the trace of a crash."""

    def start(self, consumer: str, message_ids: Sequence[str], *, worker: str) -> Program[Mapping[str, Suspect]]:
        """Insert the new; look at the others only when there are any."""
        who = {"by": consumer, "worker_name": worker}
        new = _ids((yield Execute(START, {**who, "ids": sorted(message_ids)})))
        old = [message_id for message_id in message_ids if message_id not in new]
        left = (yield Execute(LEFT_BEHIND, {**who, "ids": old})) if old else ()
        return {
            message_id: Suspect(message_id=message_id, crashes=crashes, trial=Trial(trial))
            for message_id, crashes, trial in left
        }

    def start_among_few(self, consumer: str, message_ids: Sequence[str], *, worker: str) -> Program[None]:
        """Take the attempts over."""
        who = {"by": consumer, "worker_name": worker, "ids": sorted(message_ids)}
        yield Execute(TAKE, {**who, "new_trial": int(Trial.FEW)})

    def start_alone(self, consumer: str, message_id: str, *, worker: str) -> Program[int]:
        """Count the crash that the last lone attempt ended in, then take the attempt over."""
        who = {"by": consumer, "worker_name": worker, "ids": [message_id]}
        yield Execute(CRASHED_ALONE, who)
        yield Execute(START, who)
        return int((yield Execute(TAKE, {**who, "new_trial": int(Trial.ALONE)}))[0][0])

    def clear(self, consumer: str, message_ids: Sequence[str]) -> Program[None]:
        """Delete the rows."""
        yield Execute(CLEAR, {"by": consumer, "ids": list(message_ids)})

    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Lock what dead workers left that nobody else is at, then delete it."""
        old = yield Execute(OLD_ATTEMPTS, {"age_us": micros(older_than), "up_to": limit})
        return (yield from _each(old, CLEAR))


class RelationalClaimStore(ClaimStore):
    """Claims as rows with a token and an expiry by the database's clock."""

    def claim(
        self, consumer: str, message_ids: Sequence[str], *, token: str, ttl: timedelta
    ) -> Program[Collection[str]]:
        """Insert, or take over what has expired; then look into the inbox again, since the insert may have waited."""
        wanted = {"by": consumer, "ids": sorted(message_ids), "by_token": token, "ttl_us": micros(ttl)}
        return (yield from self._still_wanted(consumer, _ids((yield Execute(CLAIM, wanted))), token=token))

    def renew(self, consumer: str, message_ids: Sequence[str], *, token: str, ttl: timedelta) -> Program[None]:
        """Write a later end."""
        mine = {"by": consumer, "ids": list(message_ids), "by_token": token, "ttl_us": micros(ttl)}
        yield Execute(RENEW, mine)

    def processed(self, consumer: str, message_ids: Sequence[str]) -> Program[Collection[str]]:
        """Look the ids up in the inbox."""
        return _ids((yield Execute(PROCESSED, {"by": consumer, "ids": list(message_ids)})))

    def release(self, consumer: str, message_ids: Sequence[str], *, token: str) -> Program[int]:
        """Delete claims held under ``token``."""
        return len((yield Execute(RELEASE, {"by": consumer, "ids": list(message_ids), "by_token": token})))

    def _still_wanted(self, consumer: str, claimed: Collection[str], *, token: str) -> Program[Collection[str]]:
        """Release what whoever held the claim that we waited for has recorded meanwhile; return the rest."""
        processed = frozenset((yield from self.processed(consumer, sorted(claimed))) if claimed else ())
        if processed:
            yield from self.release(consumer, sorted(processed), token=token)
        return frozenset(claimed) - processed

    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Lock what has expired that nobody else is at, then delete it."""
        old = yield Execute(OLD_CLAIMS, {"age_us": micros(older_than), "up_to": limit})
        return (yield from _each(old, DROP_CLAIM))
