"""The registry of consumers in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import String, bindparam, delete, func, select, update

from pillarbox.channel import Subscription
from pillarbox.consumer.registry import ConsumerRegistry
from pillarbox.relational.expressions import characters_in, insert_into, now_us
from pillarbox.relational.operator_tables import dead_letter_groups
from pillarbox.relational.tables import (
    attempts,
    claims,
    consumers,
    dead_letters,
    early,
    held,
    holds,
    inbox,
    key_positions,
    members,
    queue,
    skipped_numbers,
    subscriptions,
    waits,
)
from pillarbox.transaction import Execute, Program

OLD, NEW = bindparam("old", type_=String), bindparam("new", type_=String)
OWNED = (
    consumers,
    subscriptions,
    queue,
    inbox,
    attempts,
    claims,
    holds,
    held,
    key_positions,
    early,
    skipped_numbers,
    waits,
    dead_letters,
    dead_letter_groups,
)
RENAMES = tuple(update(table).where(table.c.consumer == OLD).values(consumer=NEW) for table in OWNED)

_prefix = bindparam("prefix", type_=String)
KNOWN = select(consumers.c.consumer).where(  # not LIKE, which folds case on SQLite and takes "_" for any character
    func.substr(consumers.c.consumer, 1, characters_in(_prefix)) == _prefix
)
_enlist = insert_into(consumers).values(
    consumer=NEW, channels=bindparam("channel_list", type_=String), registered_at=now_us()
)
ENLIST = _enlist.on_conflict_do_update(index_elements=["consumer"], set_={"channels": _enlist.excluded.channels})
FORGET = delete(consumers).where(consumers.c.consumer == OLD)
UNSUBSCRIBE = delete(subscriptions).where(subscriptions.c.consumer == OLD)
GIVE_UP = tuple(
    delete(table).where(table.c.consumer == OLD)
    for table in (subscriptions, queue, attempts, claims, holds, held, waits)
)
PENDING = select(
    select(func.count()).select_from(queue).where(queue.c.consumer == OLD).scalar_subquery()
    + select(func.count()).select_from(held).where(held.c.consumer == OLD).scalar_subquery()
    + select(func.count()).select_from(early).where(early.c.consumer == OLD).scalar_subquery()
)
IN_SCOPE = "queue/"
"""Before the consumer's name: the scope in which its processes share what the database's queue has for it."""
RECEIVES = select(func.count()).where(
    members.c.scope == bindparam("in_scope", type_=String), members.c.expires_at > now_us()
)


class RelationalConsumerRegistry(ConsumerRegistry):
    """Consumers as rows."""

    def rename(self, old: str, new: str) -> Program[None]:
        """Rewrite the name in every table that bears it, if it is still there.

        What the new one has declared of itself makes way; it is declared again at every start.
        """
        if (yield Execute(KNOWN, {"prefix": old})):
            yield Execute(UNSUBSCRIBE, {"old": new})
            yield Execute(FORGET, {"old": new})
            for statement in RENAMES:
                yield Execute(statement, {"old": old, "new": new})

    def retire(self, consumer: str) -> Program[None]:
        """Delete what waits for it, if it is known."""
        known = yield Execute(KNOWN, {"prefix": consumer})
        if any(row[0] == consumer for row in known):
            for statement in (*GIVE_UP, FORGET):
                yield Execute(statement, {"old": consumer})

    def enlist(self, service: str, subscriptions: Sequence[Subscription]) -> Program[Mapping[str, int]]:
        """Look at those that are not here; if none is stranded, upsert those that are.

        One that another process receives for is neither gone nor stranded: it is of another release.
        """
        here = {subscription.consumer for subscription in subscriptions}
        stranded: dict[str, int] = {}
        known_here: list[str] = [row[0] for row in (yield Execute(KNOWN, {"prefix": f"{service}/"}))]
        for known in sorted(known_here):
            if known in here or (yield Execute(RECEIVES, {"in_scope": IN_SCOPE + known}))[0][0]:
                continue
            pending = int((yield Execute(PENDING, {"old": known}))[0][0])
            if pending:
                stranded[known] = pending
            else:
                yield Execute(UNSUBSCRIBE, {"old": known})
                yield Execute(FORGET, {"old": known})
        if stranded:
            return stranded
        for subscription in sorted(subscriptions, key=lambda one: one.consumer):
            channels = " ".join(subscription.channels)
            yield Execute(ENLIST, {"new": subscription.consumer, "channel_list": channels})
        return stranded
