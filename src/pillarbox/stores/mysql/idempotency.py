"""Inbox, attempts and claims where an INSERT cannot tell which of its rows are new.

What is inserted carries a token, and a second statement selects what bears it. A row count would not do, since drivers
count a row that was found like one that was changed, and INSERT IGNORE lets more pass than a duplicate (RELIABILITY
G3).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from secrets import randbits

from sqlalchemy import BigInteger, String, and_, bindparam, case, exists, or_, select, text
from sqlalchemy import literal as value

from pillarbox.idempotency import Suspect, Trial
from pillarbox.relational.expressions import any_of, insert_into, micros, now_us, values_of
from pillarbox.relational.idempotency import (
    BY,
    CRASHED_ALONE,
    IDS,
    LEFT_BEHIND,
    TAKE,
    WORKER,
    RelationalAttemptStore,
    RelationalClaimStore,
    RelationalInboxStore,
)
from pillarbox.relational.tables import attempts, claims, inbox
from pillarbox.transaction import Execute, Program

TOKEN_BITS = 63
_id = values_of(IDS, String()).c.value

RECORD = (  # the primary key decides; a concurrent transaction with the same id is waited for
    insert_into(inbox)
    .from_select(
        ["consumer", "message_id", "processed_at", "recorded_by"],
        select(BY, _id, now_us(), bindparam("run_token", type_=BigInteger)).where(text("true")),
    )
    .on_conflict_do_nothing()
)
MINE = select(inbox.c.message_id).where(
    inbox.c.consumer == BY, any_of(inbox.c.message_id, IDS), inbox.c.recorded_by == bindparam("run_token")
)
START = (
    insert_into(attempts)
    .from_select(
        ["consumer", "message_id", "worker", "trial", "crashes", "started_at"],
        select(BY, _id, WORKER, value(0), value(0), now_us()).where(text("true")),
    )
    .on_conflict_do_nothing()
)

_token = bindparam("by_token", type_=String)
_claim = insert_into(claims).from_select(
    ["consumer", "message_id", "token", "expires_at"],
    select(BY, _id, _token, now_us() + bindparam("ttl_us", type_=BigInteger)).where(
        ~exists().where(and_(inbox.c.consumer == BY, inbox.c.message_id == _id))
    ),
)
_new = _claim.excluded
_may_take = or_(claims.c.expires_at <= now_us(), claims.c.token == _new.token)
CLAIM = _claim.on_conflict_do_update(  # the second assignment sees what the first one wrote
    index_elements=["consumer", "message_id"],
    set_={
        "token": case((_may_take, _new.token), else_=claims.c.token),
        "expires_at": case((claims.c.token == _new.token, _new.expires_at), else_=claims.c.expires_at),
    },
)
CLAIMED = select(claims.c.message_id).where(
    claims.c.consumer == BY, any_of(claims.c.message_id, IDS), claims.c.token == _token
)


class MySqlInboxStore(RelationalInboxStore):
    """Processed ids, those of a run told from duplicates by its token."""

    def record(self, consumer: str, message_ids: Sequence[str]) -> Program[Collection[str]]:
        """Insert in sorted order under a token of this call, then look which rows bear it."""
        mine = {"by": consumer, "ids": sorted(message_ids), "run_token": randbits(TOKEN_BITS)}
        yield Execute(RECORD, mine)
        return frozenset(row[0] for row in (yield Execute(MINE, mine)))


class MySqlAttemptStore(RelationalAttemptStore):
    """Messages under way."""

    def start(self, consumer: str, message_ids: Sequence[str], *, worker: str) -> Program[Mapping[str, Suspect]]:
        """Insert what is not there; of the rest, what a dead worker left behind is not this worker's."""
        who = {"by": consumer, "worker_name": worker, "ids": sorted(message_ids)}
        yield Execute(START, who)
        return {
            message_id: Suspect(message_id=message_id, crashes=crashes, trial=Trial(trial))
            for message_id, crashes, trial in (yield Execute(LEFT_BEHIND, who))
        }

    def start_alone(self, consumer: str, message_id: str, *, worker: str) -> Program[int]:
        who = {"by": consumer, "worker_name": worker, "ids": [message_id]}
        yield Execute(CRASHED_ALONE, who)
        yield Execute(START, who)
        return int((yield Execute(TAKE, {**who, "new_trial": int(Trial.ALONE)}))[0][0])


class MySqlClaimStore(RelationalClaimStore):
    """Claims, told from those of others by their token."""

    def claim(
        self, consumer: str, message_ids: Sequence[str], *, token: str, ttl: timedelta
    ) -> Program[Collection[str]]:
        """Write our token where we may, then look which rows bear it; look into the inbox again after that."""
        mine = {"by": consumer, "ids": sorted(message_ids), "by_token": token}
        yield Execute(CLAIM, {**mine, "ttl_us": micros(ttl)})
        claimed = frozenset(row[0] for row in (yield Execute(CLAIMED, mine)))
        return (yield from self._still_wanted(consumer, claimed, token=token))
