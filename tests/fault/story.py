"""The story that the fault tests tell: accounts whose entries are numbered under the account's row lock.

The number of an entry is drawn in the transaction that publishes it, so that it is the place of the entry among all
that its account ever commits: what the relay and the consumers must keep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Column, Integer, MetaData, String, Table, bindparam, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, RelaySettings, Settings, event
from pillarbox.channel import Subscription
from pillarbox.relational.tables import outbox, queue
from pillarbox.relay import RelayKind
from tests.history import Effect, Event

if TYPE_CHECKING:
    from pillarbox.channel import Broker
    from pillarbox.message import Message
    from pillarbox.relational import RelationalStore

SERVICE = "bank"
TOPIC = "topic:ledger"
SQLITE_KINDS = (RelayKind.POLLING, RelayKind.SEQUENCE)
POSTGRESQL_KINDS = (RelayKind.POLLING, RelayKind.SEQUENCE, RelayKind.LOG)
SETTINGS = [
    *(f"asyncpg-{kind}" for kind in POSTGRESQL_KINDS),
    *(f"sqlite-{kind}" for kind in SQLITE_KINDS),
    "mariadb-polling",
]
"""Where a story plays, and with which kind of relay; see the fixture ``setting``."""
WINDOW = 20
LEASE = timedelta(milliseconds=450)


@event("ledger.entered", key="account")
@dataclass(frozen=True)
class Entered:
    """An entry was made in an account; ``token`` names the attempt, also one that was rolled back."""

    account: str
    seq: int
    token: str


metadata = MetaData()
accounts = Table("accounts", metadata, Column("id", String(20), primary_key=True), Column("entries", Integer))
ledger = Table(
    "ledger",
    metadata,
    Column("token", String(40), primary_key=True),
    Column("account", String(20)),
    Column("seq", Integer),
)
audit = Table("audit", metadata, Column("id", Integer, primary_key=True), Column("token", String(40)))
effects = Table(
    "effects",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("consumer", String(20)),
    Column("token", String(40)),
    Column("account", String(20)),
    sqlite_autoincrement=True,
)

NEXT = update(accounts).where(accounts.c.id == bindparam("of")).values(entries=accounts.c.entries + bindparam("more"))
LAST = select(accounts.c.entries).where(accounts.c.id == bindparam("of"))  # MariaDB has no UPDATE … RETURNING


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where a story plays, and with which leases."""

    store: str
    lease: timedelta = LEASE
    window: int = WINDOW
    kind: RelayKind = RelayKind.POLLING
    relay: RelaySettings | None = None
    answer_within: timedelta = timedelta(seconds=30)

    def box(self, broker: Broker | None = None) -> Pillarbox:
        """Make a box of the story; without ``broker`` the store carries the messages."""
        relay = self.relay or RelaySettings(
            kind=self.kind, window=self.window, lease=self.lease, longest_poll=timedelta(milliseconds=20)
        )
        settings = Settings(relay=relay, answer_within=self.answer_within)
        box = Pillarbox(SERVICE, store=self.store, broker=broker or "database://", settings=settings)
        box.register(Entered)
        return box


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How entries are made.

    Attributes:
        hold_ms: the longest time for which a transaction stays open after it has published.
        rollbacks: the share of transactions that are rolled back at their end.
        together: how many entries one transaction makes at most.
        events: how many entries to make.
    """

    accounts: Sequence[str]
    events: int
    hold_ms: float = 0
    rollbacks: float = 0.1
    together: int = 3
    seed: int = 0


async def prepare(setting: Setting, names: Sequence[str], *, consumers: Sequence[str] = ()) -> None:
    """Create the tables and the accounts, and subscribe ``consumers``."""
    box = setting.box()
    try:
        await prepare_in(box, names, consumers=consumers)
    finally:
        await box.store.close()


async def prepare_in(box: Pillarbox, names: Sequence[str] = (), *, consumers: Sequence[str] = ()) -> None:
    """Create what ``prepare`` does, in the store of ``box``."""
    await box.migrate()
    async with box.transaction() as tx:
        await tx.run_sync(metadata.create_all)
        if names:
            await tx.execute(insert(accounts), [{"id": name, "entries": 0} for name in names])
    for consumer in consumers:
        subscription = Subscription(consumer=f"{SERVICE}/{consumer}", channels=(TOPIC,))
        await box.store.run(box.store.queue.subscribe(subscription))


class _RollBack(Exception):  # noqa: N818  # part of the story
    """The transaction ends in a rollback."""


@dataclass(slots=True)
class Writer:
    """Makes entries through ``box``; several of them may share its pool."""

    box: Pillarbox
    plan: Writing
    name: str
    made: int = 0
    dice: Random = field(init=False)

    def __post_init__(self) -> None:
        self.dice = Random(f"{self.plan.seed}/{self.name}")

    async def transaction(self) -> list[str]:
        """Make some entries in one transaction; return the tokens that were committed."""
        tokens = [f"{self.name}-{self.made + number}" for number in range(self.dice.randint(1, self.plan.together))]
        self.made += len(tokens)
        account = self.dice.choice(self.plan.accounts)
        try:
            async with self.box.transaction() as tx:
                await self._enter(tx, account, tokens)
                await stay_open(self.dice.uniform(0, self.plan.hold_ms))
                if self.dice.random() < self.plan.rollbacks:
                    raise _RollBack
        except _RollBack:
            return []
        return tokens

    async def _enter(self, tx: AsyncConnection, account: str, tokens: Sequence[str]) -> None:
        await tx.execute(insert(audit), {"token": tokens[0]})  # the transaction gets its number before it has the lock
        await tx.execute(NEXT, {"of": account, "more": len(tokens)})
        last = (await tx.execute(LAST, {"of": account})).scalar_one()
        entered = [Entered(account, last - len(tokens) + 1 + place, token) for place, token in enumerate(tokens)]
        rows = [{"token": one.token, "account": account, "seq": one.seq} for one in entered]
        await tx.execute(insert(ledger), rows)
        if self.dice.random() < 0.5:
            await self.box.publish_all(entered, tx=tx)
        else:
            for one in entered:
                await self.box.publish(one, tx=tx)


async def stay_open(milliseconds: float) -> None:
    """Let time pass inside a transaction or a handler: part of the workload, not a way to wait for something."""
    if milliseconds:
        await asyncio.sleep(milliseconds / 1000)


async def committed(store: RelationalStore) -> list[Event]:
    """Return every entry that was committed."""
    async with store.engine.connect() as connection:
        rows = await connection.execute(select(ledger.c.token, ledger.c.account, ledger.c.seq))
        return [Event(token, account, seq) for token, account, seq in rows]


async def applied(store: RelationalStore) -> list[Effect]:
    """Return every effect that was committed."""
    async with store.engine.connect() as connection:
        columns = (effects.c.consumer, effects.c.token, effects.c.account, effects.c.position)
        return [Effect(*row) for row in await connection.execute(select(*columns).order_by(effects.c.position))]


async def count_effects(store: RelationalStore) -> int:
    """Return how many effects there are."""
    async with store.engine.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(effects))).scalar_one()


async def pending(store: RelationalStore) -> int:
    """Return how many records wait in the outbox."""
    return (await store.run(store.outbox.state())).pending


async def waiting(store: RelationalStore, *, queues_too: bool) -> int:
    """Return how many messages wait in the outbox, and if asked in the queues."""
    count = select(func.count()).select_from
    if not queues_too:
        return await pending(store)
    async with store.engine.connect() as connection:
        return sum([(await connection.execute(count(table))).scalar_one() for table in (outbox, queue)])


def entry_in(message: Message) -> Entered:
    """Read the entry that ``message`` tells of."""
    return msgspec.json.decode(message.body, type=Entered)
