"""The outbox where the database itself is the broker: records are moved to the consumers' queues."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, Executable, Table, and_, bindparam, func, literal, select

from pillarbox.channel import is_queue
from pillarbox.channel.address import QUEUE
from pillarbox.errors import LeaseLostError
from pillarbox.relational.expressions import (
    any_of,
    anywhere,
    insert_into,
    none_of,
    numbers,
    position_list,
    texts,
)
from pillarbox.relational.keeping import KEEP
from pillarbox.relational.leases import is_owned
from pillarbox.relational.outbox import KEY_IS_HELD
from pillarbox.relational.outbox_held import REMOVE
from pillarbox.relational.rows import record_message_columns
from pillarbox.relational.tables import outbox, outbox_held, queue, subscriptions
from pillarbox.relay.reader import HeldRecords, OutboxTransfer, Transferred
from pillarbox.transaction import Execute, Program, Rows

AT = position_list("positions")

TRANSFERABLE = (  # walks the primary key; fenced, and locked to the end of the transaction
    select(outbox.c.position, outbox.c.destination)
    .where(
        anywhere(outbox.c.position),
        ~KEY_IS_HELD,
        any_of(outbox.c.slot, numbers("slots")),
        is_owned(outbox.c.slot, locked=True),
        none_of(outbox.c.destination, texts("paused")),
    )
    .order_by(outbox.c.position)
    .limit(bindparam("up_to", type_=BigInteger))
)
LISTENED_TO = (  # primary key prefix; locked, so that nobody who listens is retired before the fan-out has reached him
    select(subscriptions.c.channel)
    .where(any_of(subscriptions.c.channel, texts("channels")))
    .with_for_update(read=True, key_share=True)
)
_QUEUED = (
    "consumer",
    "message_id",
    "type",
    "channel",
    "message_key",
    "content_type",
    "headers",
    "body",
    "slot",
    "created_at",
)


def _fan_out(table: Table) -> Executable:
    """Return the insert of chosen records into the queue of each consumer, in the order of their positions."""
    mailbox = func.coalesce(subscriptions.c.consumer, table.c.destination)
    places = table.outerjoin(
        subscriptions,
        and_(subscriptions.c.channel == table.c.destination, ~table.c.destination.startswith(literal(QUEUE))),
    )
    return insert_into(queue).from_select(
        _QUEUED,
        select(mailbox, *record_message_columns(table), table.c.slot, table.c.created_at)
        .select_from(places)
        .where(any_of(table.c.position, AT))
        .order_by(table.c.position),
    )


FAN_OUT = _fan_out(outbox)
FAN_OUT_HELD = _fan_out(outbox_held)


class RelationalTransfer(OutboxTransfer):
    """Moves records to the consumers' queues of the same database."""

    def __init__(self, held: HeldRecords) -> None:
        """Take released records from ``held``."""
        self._held = held

    def transfer(
        self,
        scope: str,
        tokens: Sequence[int],
        *,
        slots: Sequence[int],
        paused: Sequence[str],
        limit: int,
        keep: bool = False,
    ) -> Program[Transferred]:
        """Choose the rows first, so that a row committed meanwhile is neither copied nor removed by half."""
        chosen = yield Execute(
            TRANSFERABLE, {"scope": scope, "tokens": tokens, "slots": slots, "paused": paused, "up_to": limit}
        )
        ready = yield from _listened_to(chosen)
        if ready:
            yield Execute(FAN_OUT, {"positions": ready})
            if keep:
                yield Execute(KEEP, {"positions": ready})
            yield Execute(REMOVE, {"positions": ready})
        return _transferred(chosen, ready, limit)

    def transfer_released(
        self,
        scope: str,
        tokens: Sequence[int],
        *,
        slots: Sequence[int],
        paused: Sequence[str],
        limit: int,
        keep: bool = False,
    ) -> Program[Transferred]:
        """Settle what was fanned out as a relay does that published it."""
        found = yield from self._held.read(slots=slots, paused=paused, limit=limit)
        chosen = [(record.position, record.message.destination) for record in found]
        ready = yield from _listened_to(chosen)
        if ready:
            yield Execute(FAN_OUT_HELD, {"positions": ready})
            if (yield from self._held.settle(scope, tokens, ready, keep=keep)) < len(ready):
                raise LeaseLostError(lease=scope, token=max(tokens, default=0))
        return _transferred(chosen, ready, limit)


def _listened_to(chosen: Rows) -> Program[list[int]]:
    """Return the positions of the chosen (position, destination) whose destinations somebody listens to."""
    topics = sorted({destination for _, destination in chosen if not is_queue(destination)})
    heard = {channel for (channel,) in (yield Execute(LISTENED_TO, {"channels": topics}))} if topics else set[str]()
    return [position for position, destination in chosen if is_queue(destination) or destination in heard]


def _transferred(chosen: Rows, ready: Sequence[int], limit: int) -> Transferred:
    moved = set(ready)
    reached = {destination for position, destination in chosen if position in moved}
    not_ready = sorted({destination for position, destination in chosen if position not in moved})
    return Transferred(moved=len(ready), reached=reached, not_ready=not_ready, full=len(chosen) == limit)
