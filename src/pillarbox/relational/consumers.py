"""The registry of consumers in SQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from msgspec import json
from sqlalchemy import BigInteger, Delete, String, Table, Text, bindparam, delete, exists, func, or_, select, update

from pillarbox.channel import Subscription
from pillarbox.consumer.registry import ConsumerRegistry
from pillarbox.relational.expressions import characters_in, insert_into, micros, now_us
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
UNIQUE = (
    (subscriptions, ("channel",)),
    (inbox, ("message_id",)),
    (attempts, ("message_id",)),
    (claims, ("message_id",)),
    (holds, ("hold_key",)),
    (held, ("message_id",)),
    (key_positions, ("channel", "message_key")),
    (early, ("message_id",)),
    (waits, ("message_id", "cause_id")),
    (dead_letter_groups, ("fingerprint",)),
)
"""What a consumer has once: where a process of another release went on under the old name, both names may have it."""
LEFT = select(or_(*(exists().where(table.c.consumer == OLD) for table in OWNED)))


def _giving_way(table: Table, names: Sequence[str]) -> Delete:
    """Return the statement that removes of the old name what the new one has, too."""
    columns = [table.c[name] for name in names]
    taken = select(*columns).where(table.c.consumer == NEW).distinct().subquery()  # MySQL reads no table it deletes in
    same = (taken.c[name] == table.c[name] for name in names)
    return delete(table).where(table.c.consumer == OLD, exists().where(*same))


GIVE_WAY = tuple(_giving_way(table, names) for table, names in UNIQUE)
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
IN_SCOPE = "consumer/"
"""Before the consumer's name: the scope whose members are the processes that have it, whatever brings its messages."""
DEAD_FOR = timedelta(hours=1)
"""How long a process is kept in mind that did not leave."""
REMEMBERED = timedelta(minutes=2)
"""How long the types of a process that has ended are kept in mind: it may be about to start anew."""
_scope, _owner = bindparam("in_scope", type_=String), bindparam("by_owner", type_=String)
_attend = insert_into(members).values(
    scope=_scope,
    owner=_owner,
    expires_at=now_us() + bindparam("ttl_us", type_=BigInteger),
    types=bindparam("handled", type_=Text),
)
ATTEND = _attend.on_conflict_do_update(
    index_elements=["scope", "owner"], set_={"expires_at": _attend.excluded.expires_at}
)
IS_ATTENDED = select(members.c.owner).where(
    members.c.scope == _scope,
    members.c.owner == _owner,
    members.c.expires_at > now_us() + bindparam("spare_us", type_=BigInteger),
)
TYPES = (
    select(members.c.types)
    .where(members.c.scope == _scope, members.c.expires_at > now_us() - micros(REMEMBERED))
    .distinct()
)
LEAVE = update(members).where(members.c.scope == _scope, members.c.owner == _owner).values(expires_at=now_us())
_of_service = func.substr(members.c.scope, 1, characters_in(_prefix)) == _prefix
ATTENDED_BY = (
    select(members.c.scope, func.count()).where(_of_service, members.c.expires_at > now_us()).group_by(members.c.scope)
)
BURY = delete(members).where(_of_service, members.c.expires_at < now_us() - micros(DEAD_FOR))


_types_in = json.Decoder(list[str]).decode


class RelationalConsumerRegistry(ConsumerRegistry):
    """Consumers as rows."""

    def rename(self, old: str, new: str) -> Program[None]:
        """Rewrite the name in every table that still bears it; of what both have, the new one's stays."""
        if (yield Execute(LEFT, {"old": old}))[0][0]:
            yield Execute(FORGET, {"old": new})  # it is declared again at every start
            for statement in (*GIVE_WAY, *RENAMES):
                yield Execute(statement, {"old": old, "new": new})

    def retire(self, consumer: str) -> Program[None]:
        """Delete what waits for it, if it is known."""
        known = yield Execute(KNOWN, {"prefix": consumer})
        if any(row[0] == consumer for row in known):
            for statement in (*GIVE_UP, FORGET):
                yield Execute(statement, {"old": consumer})

    def enlist(
        self,
        service: str,
        subscriptions: Sequence[Subscription],
        *,
        is_back: bool = False,
        spared: Collection[str] = (),
    ) -> Program[Mapping[str, int]]:
        """Look at those that are not here; if none is stranded, upsert those that are.

        One that another process attends to is neither gone nor stranded: it is of another release.
        """
        here = {subscription.consumer for subscription in subscriptions}
        yield Execute(BURY, {"prefix": f"{IN_SCOPE}{service}/"})
        elsewhere = yield from self.elsewhere(service, here)
        stranded: dict[str, int] = {}
        all_known = () if is_back else (yield Execute(KNOWN, {"prefix": f"{service}/"}))
        for known in sorted(str(row[0]) for row in all_known):
            if known in here or known in elsewhere or known in spared:
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

    def attend(self, consumers: Mapping[str, Collection[str]], *, owner: str, ttl: timedelta) -> Program[bool]:
        """Look at the first one, then upsert, in the order of names."""
        rows = [
            {
                "in_scope": IN_SCOPE + name,
                "by_owner": owner,
                "ttl_us": micros(ttl),
                "handled": json.encode(sorted(types)).decode(),
            }
            for name, types in sorted(consumers.items())
        ]
        if not rows:
            return True
        spare = micros(ttl) // 3  # it may end for others before this transaction does
        held = yield Execute(IS_ATTENDED, {"in_scope": rows[0]["in_scope"], "by_owner": owner, "spare_us": spare})
        yield Execute(ATTEND, rows)
        return bool(held)

    def leave(self, consumers: Collection[str], *, owner: str) -> Program[None]:
        """Let it end now, in the order of names; the row is removed when its time in mind is over."""
        rows = [{"in_scope": IN_SCOPE + name, "by_owner": owner} for name in sorted(consumers)]
        if rows:
            yield Execute(LEAVE, rows)

    def types_of(self, consumer: str) -> Program[Collection[str]]:
        """Select what its members say."""
        said = yield Execute(TYPES, {"in_scope": IN_SCOPE + consumer})
        return {name for (text,) in said for name in _types_in(text)}

    def elsewhere(self, service: str, here: Collection[str]) -> Program[Collection[str]]:
        """Select the scopes that have a living member."""
        scopes = yield Execute(ATTENDED_BY, {"prefix": f"{IN_SCOPE}{service}/"})
        return {str(scope).removeprefix(IN_SCOPE) for scope, _ in scopes} - set(here)
