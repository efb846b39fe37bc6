"""What operators decide about held keys, in SQL."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import String, and_, bindparam, case, delete, select, update

from pillarbox.holding import HeldMessage, HeldState, HoldState
from pillarbox.holding.decisions import HoldDecisions, LockedHold
from pillarbox.relational.expressions import any_of, now_us, texts
from pillarbox.relational.holding import history_of
from pillarbox.relational.rows import message_columns, message_of
from pillarbox.relational.tables import held, holds
from pillarbox.transaction import Execute, Program, Row

BY = bindparam("by", type_=String)
KEY = bindparam("held_key", type_=holds.c.hold_key.type)
_hold = and_(holds.c.consumer == BY, holds.c.hold_key == KEY)
_behind = and_(held.c.consumer == BY, held.c.hold_key == KEY)

_is_leased = and_(holds.c.lease_token.is_not(None), holds.c.lease_until > now_us())
LOCK = select(holds.c.state, case((_is_leased, 1), else_=0)).where(_hold).with_for_update()
HEAD = (  # index on (consumer, hold_key, rank, position)
    select(
        case((held.c.due_at <= now_us(), 1), else_=0),
        held.c.state,
        held.c.attempts,
        held.c.history,
        *message_columns(held),
    )
    .where(_behind)
    .order_by(held.c.rank, held.c.position)
    .limit(1)
)
LET_GO = update(holds).where(_hold).values(state=HoldState.WAITING.value, due_at=now_us())
LET_GO_BEHIND = update(held).where(_behind, held.c.due_at > now_us()).values(due_at=now_us())
UNLEASE = update(holds).where(_hold).values(lease_token=None, lease_until=0)
TAKE_OUT = delete(held).where(_behind, any_of(held.c.message_id, texts("ids")))
PUT_UNDER = (
    update(held)
    .where(held.c.consumer == BY, held.c.message_id == bindparam("of_message", type_=String))
    .values(hold_key=bindparam("new_key", type_=held.c.hold_key.type))
)


class RelationalHoldDecisions(HoldDecisions):
    """Decisions under the hold's row lock."""

    def lock(self, consumer: str, hold_key: str) -> Program[LockedHold | None]:
        """Lock the hold, then look at its first message."""
        which = {"by": consumer, "held_key": hold_key}
        found = yield Execute(LOCK, which)
        if not found:
            return None
        first = yield Execute(HEAD, which)
        return LockedHold(
            state=HoldState(found[0][0]),
            is_leased=bool(found[0][1]),
            head=_head(hold_key, first[0][1:]) if first else None,
            is_due=bool(first) and bool(first[0][0]),
        )

    def let_go(self, consumer: str, hold_key: str) -> Program[None]:
        """Write the present into both tables."""
        which = {"by": consumer, "held_key": hold_key}
        yield Execute(LET_GO_BEHIND, which)
        yield Execute(LET_GO, which)

    def take_out(self, consumer: str, hold_key: str, message_ids: Sequence[str]) -> Program[None]:
        """Take the token away, by which a lease's end is not enough, and delete."""
        which = {"by": consumer, "held_key": hold_key}
        yield Execute(UNLEASE, which)
        yield Execute(TAKE_OUT, {**which, "ids": list(message_ids)})

    def put_under(self, consumer: str, message_id: str, hold_key: str) -> Program[None]:
        """Update the row."""
        yield Execute(PUT_UNDER, {"by": consumer, "of_message": message_id, "new_key": hold_key})


def _head(hold_key: str, row: Row) -> HeldMessage:
    state, attempts, history, *message = row
    return HeldMessage(
        hold_key=hold_key,
        message=message_of(message),
        state=HeldState(state),
        attempts=attempts,
        history=history_of(history),
    )
