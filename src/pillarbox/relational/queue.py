"""The database as a broker, in SQL: a row for each message and consumer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import BigInteger, SmallInteger, String, bindparam, delete, exists, literal, select, text

from pillarbox.channel import QueuedMessage, QueueStore, Subscription, is_queue
from pillarbox.message import Message
from pillarbox.outbox import SLOTS, bucket_of
from pillarbox.relational.consumers import IN_SCOPE
from pillarbox.relational.expressions import (
    any_of,
    anywhere,
    insert_into,
    none_of,
    now_us,
    numbers,
    position_list,
    texts,
    values_of,
)
from pillarbox.relational.leases import is_owned
from pillarbox.relational.rows import MESSAGE_COLUMNS, message_columns, message_of, message_values
from pillarbox.relational.tables import consumers, members, queue, subscriptions
from pillarbox.transaction import Execute, Program

_channel = values_of(texts("channels"), String()).c.value
SUBSCRIBE = (
    insert_into(subscriptions)
    .from_select(
        ["channel", "consumer", "since"],
        select(_channel, bindparam("by", type_=String), now_us()).where(text("true")),
    )
    .on_conflict_do_nothing()
)
SUBSCRIBERS = select(subscriptions.c.channel, subscriptions.c.consumer).where(
    any_of(subscriptions.c.channel, texts("channels"))
)
LIVING_OTHERS = select(consumers.c.consumer, consumers.c.channels).where(
    consumers.c.consumer != bindparam("by", type_=String),
    exists().where(members.c.scope == literal(IN_SCOPE) + consumers.c.consumer, members.c.expires_at > now_us()),
)
ENQUEUE = insert_into(queue).values(
    **{name: bindparam(name, type_=queue.c[name].type) for name in ("consumer", *MESSAGE_COLUMNS)},
    slot=bindparam("slot", type_=SmallInteger),
    created_at=now_us(),
)
READ = (  # walks the index on (consumer, position)
    select(queue.c.position, queue.c.slot, *message_columns(queue))
    .where(
        queue.c.consumer == bindparam("mailbox", type_=String),
        anywhere(queue.c.position),
        any_of(queue.c.slot, numbers("slots")),
        none_of(queue.c.position, position_list("leave_out")),
    )
    .order_by(queue.c.position)
    .limit(bindparam("up_to", type_=BigInteger))
)
ACCEPT = (  # primary key; fenced, the lease kept to the end of the transaction
    delete(queue)
    .where(any_of(queue.c.position, position_list("positions")), is_owned(queue.c.slot, locked=True))
    .returning(queue.c.position)
)


class RelationalQueueStore(QueueStore):
    """Queues and topics as rows; a topic's message is stored once for each consumer."""

    def subscribe(self, subscription: Subscription) -> Program[None]:
        """Remember the consumer for each of its topics, in the order in which a transfer locks them."""
        topics = sorted(channel for channel in subscription.channels if not is_queue(channel))
        if topics:
            yield Execute(SUBSCRIBE, {"channels": topics, "by": subscription.consumer})

    def rivals(self, subscription: Subscription) -> Program[Mapping[str, str]]:
        """Look at what the registry of consumers says of those that a process has now."""
        queues = {channel for channel in subscription.channels if is_queue(channel)}
        rows = (yield Execute(LIVING_OTHERS, {"by": subscription.consumer})) if queues else ()
        return {channel: name for name, channels in rows for channel in str(channels).split() if channel in queues}

    def enqueue(self, messages: Sequence[Message]) -> Program[Collection[str]]:
        """Fan out in the order given."""
        topics = sorted({message.destination for message in messages if not is_queue(message.destination)})
        heard: dict[str, list[str]] = {}
        for channel, consumer in (yield Execute(SUBSCRIBERS, {"channels": topics})) if topics else ():
            heard.setdefault(channel, []).append(consumer)
        rows = [
            {**message_values(message), "consumer": consumer, "slot": bucket_of(message) % SLOTS}
            for message in messages
            for consumer in mailboxes_of(message, heard)
        ]
        if rows:
            yield Execute(ENQUEUE, rows)
        return {topic for topic in topics if topic not in heard}

    def read(
        self, subscription: Subscription, *, slots: Sequence[int], leave_out: Sequence[int], limit: int
    ) -> Program[Sequence[QueuedMessage]]:
        """Read the oldest of each mailbox, and of these the oldest, so that none starves another."""
        found: list[QueuedMessage] = []
        for mailbox in mailboxes(subscription):
            wanted = {"mailbox": mailbox, "slots": slots, "leave_out": leave_out, "up_to": limit}
            found += [
                QueuedMessage(position=row[0], slot=row[1], message=message_of(row[2:]))
                for row in (yield Execute(READ, wanted))
            ]
        return sorted(found, key=lambda one: one.position)[:limit]

    def accept(self, scope: str, tokens: Sequence[int], positions: Sequence[int]) -> Program[int]:
        """Delete what was handled and is still ours."""
        return len((yield Execute(ACCEPT, {"scope": scope, "tokens": tokens, "positions": positions})))


def mailboxes(subscription: Subscription) -> list[str]:
    """Return the names under which a subscription's messages are stored.

    A topic's copies bear the name of their consumer. A queue's messages bear the queue's own address, since its one
    consumer may not be known yet.
    """
    queues = [channel for channel in subscription.channels if is_queue(channel)]
    return [subscription.consumer, *queues] if len(queues) < len(subscription.channels) else queues


def mailboxes_of(message: Message, heard: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Return the names under which ``message`` is stored; ``heard`` holds the consumers of each topic."""
    return [message.destination] if is_queue(message.destination) else heard.get(message.destination, ())
