"""A consumer of the bank whose rounds a test takes by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Context, Pillarbox, Retry, Settings, event
from pillarbox.app.membership import membership_of
from pillarbox.consumer.drainer import Drainer
from pillarbox.consumer.item import Item
from pillarbox.consumer.worker import ConsumerWorker
from pillarbox.holding import HeldMessage, HeldState, Hold, hold_key_of
from pillarbox.message import Message
from pillarbox.ordering import RunSize
from pillarbox.relational import RelationalStore, metadata
from pillarbox.relational.tables import dead_letters, held, holds, inbox, leases, members, outbox, queue
from tests.fault.story import SERVICE, TOPIC, Entered, applied, effects
from tests.history import Event, Verdict, check

if TYPE_CHECKING:
    from pillarbox.channel import Broker, Delivery

CONSUMER = f"{SERVICE}/post"
ACCOUNT = "account-1"
ONCE_MORE = Retry(attempts=3, immediate=0, first=timedelta(0))


@event("ledger.posted", key="account")
@dataclass(frozen=True)
class Posted:
    """An entry was posted."""

    account: str
    token: str


class BadDayError(Exception):
    """The handler has one."""


@dataclass(slots=True)
class Days:
    """Which entries fail, and how often before they succeed."""

    bad: dict[str, int] = field(default_factory=dict)

    def next(self, token: str) -> None:
        """Fail, if it is time to."""
        if self.bad.get(token, 0) > 0:
            self.bad[token] -= 1
            raise BadDayError(token)


def entry(number: int, account: str = ACCOUNT) -> Message:
    """Return the message of entry ``number`` of an account."""
    token = f"{account}/{number}"
    return Message(
        id=f"{token}-id",
        type="ledger.entered",
        destination=TOPIC,
        key=account,
        content_type="application/json",
        headers={"source": SERVICE, "schemaversion": "1"},
        body=f'{{"account":"{account}","seq":{number},"token":"{token}"}}'.encode(),
    )


def committed(messages: Sequence[Message]) -> list[Event]:
    """Return ``messages`` as the history's events."""
    return [
        Event(one.id.removesuffix("-id"), one.key, int(one.id.removesuffix("-id").rpartition("/")[2]))
        for one in messages
    ]


class Bank:
    """One process of the consumer on ``store``."""

    def __init__(
        self,
        store: RelationalStore,
        *,
        days: Days,
        retry: Retry = ONCE_MORE,
        broker: Broker | None = None,
        handler: Callable[..., Any] | None = None,
        max_held: int | None = None,
    ) -> None:
        """Work on ``store``; without a ``handler`` entries are posted in the loop, on good days."""
        self.store = store
        self.returned: list[Message] = []
        settings = Settings(max_held=max_held)
        self.box = Pillarbox(SERVICE, store=store, broker=broker or "database://", settings=settings)

        async def post(entered: Entered, tx: AsyncConnection, ctx: Context) -> Posted:
            row = {"consumer": "post", "token": entered.token, "account": entered.account}
            await tx.execute(insert(effects), row)
            days.next(entered.token)
            return Posted(entered.account, entered.token)

        self.box.on(Entered, name="post", retry=retry, concurrency=1)(handler or post)
        parts = self.box._parts()
        (consumer,) = self.box.consumers()
        worker, drainer = parts.consumer_workers(consumer)
        assert isinstance(worker, ConsumerWorker)
        assert isinstance(drainer, Drainer)
        self.worker, self.drainer = worker, drainer
        self.membership = membership_of(parts)

    async def arrive(self, messages: Sequence[Message]) -> None:
        """Handle ``messages`` as if a channel delivered them."""
        await self._handle([Item(message=one, hold_key=hold_key_of(one, ordered=True)) for one in messages])

    async def receive(self) -> bool:
        """Receive what waits in the queue and handle it; return whether there was anything."""
        deliveries: Sequence[Delivery] = await self.worker._receiver.receive(100, within=timedelta(0))
        if deliveries:
            await self._handle([self.worker._item(one) for one in deliveries])
        return bool(deliveries)

    async def drain(self) -> bool:
        """Drain held keys once."""
        return await self.drainer.round()

    async def _handle(self, items: Sequence[Item]) -> None:
        await self.worker._process.handle(items, intake=self.worker._intake, size=RunSize(largest=100))
        self.returned += [item.message for item in items if item.returned]


async def empty(store: RelationalStore) -> None:
    """Forget everything."""
    async with store.begin() as transaction:
        await transaction.connection.execute(delete(effects))
        for table in reversed(metadata.sorted_tables):
            if table.name not in ("pillarbox_schema_version", "pillarbox_subscriptions"):
                await transaction.connection.execute(delete(table))


async def hold(store: RelationalStore, messages: Sequence[Message]) -> None:
    """Hold ``messages``: the first waits for its retry, the others stand behind it."""
    key = hold_key_of(messages[0], ordered=True)
    states = [HeldState.RETRYING, *[HeldState.HELD] * (len(messages) - 1)]
    rows = [HeldMessage(hold_key=key, message=one, state=state) for one, state in zip(messages, states, strict=True)]
    async with store.begin() as transaction:
        await transaction.run(store.holding.hold(CONSUMER, [Hold(hold_key=key)]))
        await transaction.run(store.holding.append(CONSUMER, rows))


async def bury_the_living(store: RelationalStore) -> None:
    """Have every lease and membership end, as after a crash and a while."""
    async with store.begin() as transaction:
        for statement in (
            update(leases).values(expires_at=0),
            update(members).values(expires_at=0),
            update(holds).values(lease_until=0),
        ):
            await transaction.connection.execute(statement)


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """Where each message is, by id."""

    queued: frozenset[str]
    held: frozenset[str]
    dead: frozenset[str]
    processed: frozenset[str]
    with_effect: tuple[str, ...]
    published: int
    open_holds: int

    def places_of(self, message: Message) -> int:
        """Return in how many places ``message`` is: one, if nothing is wrong."""
        return sum(message.id in place for place in (self.queued, self.held, self.dead, self.processed))


async def look(store: RelationalStore) -> Whereabouts:
    """Look where everything is."""
    async with store.engine.connect() as connection:

        async def column(statement: object) -> list[str]:
            return [row[0] for row in await connection.execute(statement)]  # type: ignore[call-overload]

        return Whereabouts(
            queued=frozenset(await column(select(queue.c.message_id))),
            held=frozenset(await column(select(held.c.message_id))),
            dead=frozenset(await column(select(dead_letters.c.message_id))),
            processed=frozenset(await column(select(inbox.c.message_id))),
            with_effect=tuple(f"{token}-id" for token in await column(select(effects.c.token))),
            published=int((await column(select(func.count()).select_from(outbox)))[0]),
            open_holds=int((await column(select(func.count()).select_from(holds)))[0]),
        )


async def judged(store: RelationalStore, messages: Sequence[Message]) -> Verdict:
    """Judge the effects on ``messages``."""
    return check(committed(messages), effects=await applied(store), consumers=["post"])
