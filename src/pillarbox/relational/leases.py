"""Leases in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, String, bindparam, delete, func, literal, or_, select, text, update

from pillarbox.errors import LeaseLostError
from pillarbox.lease import LeaseStore, LeaseTerms, Tenancy
from pillarbox.relational.expressions import among, any_of, insert_into, micros, now_us, numbers, values_of
from pillarbox.relational.tables import leases, members
from pillarbox.transaction import Execute, Program, Rows

LEASES_PER_EPOCH = 1024
"""Tokens grow by this much, so that no two slots of a scope ever share one."""

TTL = bindparam("ttl_us", type_=BigInteger)
SCOPE = bindparam("in_scope", type_=String)
OWNER = bindparam("by_owner", type_=String)

RENEW_MEMBER = (  # primary key
    update(members)
    .where(members.c.scope == SCOPE, members.c.owner == OWNER)
    .values(expires_at=now_us() + TTL)
    .returning(members.c.owner)
)
JOIN = insert_into(members).values(scope=SCOPE, owner=OWNER, expires_at=now_us() + TTL)
LEAVE = delete(members).where(members.c.scope == SCOPE, members.c.owner == OWNER)
BURY_DEAD_MEMBERS = delete(members).where(members.c.scope == SCOPE, members.c.expires_at < now_us() - TTL * 20)
COUNT_LIVE = select(func.count()).select_from(members).where(members.c.scope == SCOPE, members.c.expires_at > now_us())
KNOWN_SLOTS = select(leases.c.slot).where(leases.c.scope == SCOPE)
_slot = values_of(numbers("slots"), BigInteger()).c.value
ADD_SLOTS = (  # another instance may be doing the same
    insert_into(leases)
    .from_select(
        ["scope", "slot", "token", "expires_at"],
        select(bindparam("in_scope", type_=String), _slot, _slot, literal(0)).where(text("true")),
    )
    .on_conflict_do_nothing()
)
RENEW = (  # primary key prefix
    update(leases)
    .where(leases.c.scope == SCOPE, leases.c.owner == OWNER)
    .values(expires_at=now_us() + TTL)
    .returning(leases.c.slot, leases.c.token)
)
FREE = (  # primary key prefix; locked so that two instances do not take the same slot
    select(leases.c.slot)
    .where(leases.c.scope == SCOPE, or_(leases.c.owner.is_(None), leases.c.expires_at <= now_us()))
    .order_by(leases.c.slot)
    .limit(bindparam("up_to", type_=BigInteger))
    .with_for_update(skip_locked=True)
)
TAKE = (
    update(leases)
    .where(leases.c.scope == SCOPE, any_of(leases.c.slot, numbers("slots")))
    .values(owner=OWNER, token=leases.c.token + LEASES_PER_EPOCH, expires_at=now_us() + TTL)
    .returning(leases.c.slot, leases.c.token)
)
FENCE = (  # primary key prefix
    select(leases.c.slot)
    .where(leases.c.scope == SCOPE, any_of(leases.c.token, numbers("tokens")))
    .with_for_update(read=True)
)
RELEASE = (
    update(leases)
    .where(leases.c.scope == SCOPE, leases.c.owner == OWNER, any_of(leases.c.slot, numbers("slots")))
    .values(owner=None, expires_at=0)
)
RELEASE_ALL = update(leases).where(leases.c.scope == SCOPE, leases.c.owner == OWNER).values(owner=None, expires_at=0)


def is_owned(slot: ColumnElement[int], *, locked: bool) -> ColumnElement[Any]:
    """Return the condition that ``slot`` is leased under the parameters ``scope`` and ``tokens``: the fence.

    Args:
        slot: the column that holds the slot.
        locked: also keep the slots leased until the transaction ends; needed where its other writes depend on it.
    """
    owned = select(leases.c.slot).where(
        leases.c.scope == bindparam("scope", type_=String), any_of(leases.c.token, numbers("tokens"))
    )
    return among(slot, (owned.with_for_update(read=True) if locked else owned).scalar_subquery())


class RelationalLeaseStore(LeaseStore):
    """Leases as rows; a token is the slot's number plus a multiple of ``LEASES_PER_EPOCH`` that only grows."""

    def heartbeat(self, terms: LeaseTerms, owner: str) -> Program[Tenancy]:
        """Renew, then take what is free up to the fair share."""
        who = {"in_scope": terms.scope, "by_owner": owner}
        renewal = {**who, "ttl_us": micros(terms.ttl)}
        if terms.whole:
            return (yield from self._all_or_nothing(terms, renewal))
        yield from self._join(terms, renewal)
        held = _tokens((yield Execute(RENEW, renewal))) if terms.slots else {}
        live = (yield Execute(COUNT_LIVE, {"in_scope": terms.scope}))[0][0]
        share = -(-terms.slots // max(live, 1))
        if len(held) < share:
            free = yield Execute(FREE, {"in_scope": terms.scope, "up_to": share - len(held)})
            if free:
                taken = yield Execute(TAKE, {**renewal, "slots": [slot for (slot,) in free]})
                held |= _tokens(taken)
        return Tenancy(tokens=held, share=share)

    def fence(self, terms: LeaseTerms, tokens: Mapping[int, int]) -> Program[None]:
        """Lock the slots and compare their tokens."""
        found = yield Execute(FENCE, {"in_scope": terms.scope, "tokens": sorted(tokens.values())})
        if len(found) < len(tokens):
            raise LeaseLostError(lease=terms.scope, token=min(tokens.values()))

    def release(self, terms: LeaseTerms, owner: str, slots: Sequence[int]) -> Program[None]:
        """Clear the owner of ``slots``."""
        yield Execute(RELEASE, {"in_scope": terms.scope, "by_owner": owner, "slots": list(slots)})

    def leave(self, terms: LeaseTerms, owner: str) -> Program[None]:
        """Clear the owner of everything it holds and remove its membership."""
        yield Execute(RELEASE_ALL, {"in_scope": terms.scope, "by_owner": owner})
        yield Execute(LEAVE, {"in_scope": terms.scope, "by_owner": owner})

    def _all_or_nothing(self, terms: LeaseTerms, renewal: Mapping[str, object]) -> Program[Tenancy]:
        """Keep every slot, or take them once all are free; who waits is no member, so that others keep their share."""
        held = _tokens((yield Execute(RENEW, renewal)))
        if len(held) == terms.slots:
            yield Execute(RENEW_MEMBER, renewal)
            return Tenancy(tokens=held, share=terms.slots)
        if held:  # some were lost: what is left is of no use
            yield from self.leave(terms, str(renewal["by_owner"]))
        yield from self._add_slots(terms)
        free = yield Execute(FREE, {"in_scope": terms.scope, "up_to": terms.slots})
        if len(free) < terms.slots:
            return Tenancy(tokens={}, share=terms.slots)
        taken = yield Execute(TAKE, {**renewal, "slots": [slot for (slot,) in free]})
        yield from self._join(terms, renewal)
        return Tenancy(tokens=_tokens(taken), share=terms.slots)

    def _join(self, terms: LeaseTerms, renewal: Mapping[str, object]) -> Program[None]:
        if (yield Execute(RENEW_MEMBER, renewal)):
            return
        yield Execute(BURY_DEAD_MEMBERS, {"in_scope": terms.scope, "ttl_us": renewal["ttl_us"]})
        yield Execute(JOIN, renewal)
        yield from self._add_slots(terms)

    def _add_slots(self, terms: LeaseTerms) -> Program[None]:
        known = {slot for (slot,) in (yield Execute(KNOWN_SLOTS, {"in_scope": terms.scope}))}
        if missing := [slot for slot in range(terms.slots) if slot not in known]:
            yield Execute(ADD_SLOTS, {"in_scope": terms.scope, "slots": missing})


def _tokens(rows: Rows) -> dict[int, int]:
    return {row[0]: row[1] for row in rows}
