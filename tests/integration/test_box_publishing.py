"""Publishing in a transaction of the caller's: with it or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import timedelta

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from pillarbox import Context, Pillarbox
from pillarbox.errors import ConfigurationError, NoTransactionError, SchemaVersionError
from pillarbox.observe import MessageHandled
from tests.integration.boxes import (
    ChargePayment,
    OrderPlaced,
    create_tables,
    make_box,
    note,
    noted,
    publish,
)
from tests.integration.conftest import MARIADB, SERVERS


class RolledBackError(Exception):
    """Ends a transaction without its commit."""


@asynccontextmanager
async def _connection(box: Pillarbox) -> AsyncIterator[AsyncConnection]:
    async with box.store.engine.begin() as connection:
        yield connection


@asynccontextmanager
async def _session(box: Pillarbox) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(box.store.engine) as session, session.begin():
        yield session


@asynccontextmanager
async def _autobegun_session(box: Pillarbox) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(box.store.engine) as session:
        yield session
        await session.commit()


async def _publish_in_thread(box: Pillarbox, kind: str, event: object, *, commit: bool) -> None:
    def publish_sync() -> None:
        if kind == "transaction_sync":
            with box.transaction_sync() as connection:
                box.publish_sync(event, tx=connection)
                if not commit:
                    raise RolledBackError
        elif kind == "Connection":
            with box.store.sync_engine.connect() as connection:
                box.publish_sync(event, tx=connection)
                (connection.commit if commit else connection.rollback)()
        else:
            with Session(box.store.sync_engine) as session:
                box.publish_sync(event, tx=session)
                (session.commit if commit else session.rollback)()

    try:
        await asyncio.to_thread(publish_sync)
    except RolledBackError:
        assert not commit


AWAITED: dict[str, Callable[[Pillarbox], AbstractAsyncContextManager[AsyncConnection | AsyncSession]]] = {
    "transaction": Pillarbox.transaction,
    "session": Pillarbox.session,
    "AsyncConnection": _connection,
    "AsyncSession": _session,
    "AsyncSession, autobegun": _autobegun_session,
}


@pytest.mark.parametrize("kind", AWAITED)
async def test_an_event_is_published_if_and_only_if_its_transaction_commits(store_url: str, kind: str) -> None:
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        await note(tx, order.order_id)

    async with box.running():
        await create_tables(box)
        with suppress(RolledBackError):
            async with AWAITED[kind](box) as tx:
                await box.publish(OrderPlaced("rolled back"), tx=tx)
                raise RolledBackError
        async with AWAITED[kind](box) as tx:
            await box.publish(OrderPlaced("committed"), tx=tx)
        await happenings.until(MessageHandled)

        assert await noted(box) == ["committed"]


@pytest.mark.parametrize("kind", ["transaction_sync", "Connection", "Session"])
async def test_so_it_is_for_synchronous_callers(store_url: str, kind: str) -> None:
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        await note(tx, order.order_id)

    async with box.running():
        await create_tables(box)
        await _publish_in_thread(box, kind, OrderPlaced("rolled back"), commit=False)
        await _publish_in_thread(box, kind, OrderPlaced("committed"), commit=True)
        await happenings.until(MessageHandled)

        assert await noted(box) == ["committed"]


async def test_publishing_needs_no_running_box(store_url: str) -> None:
    box, _ = make_box(store_url)
    async with box:
        await publish(box, OrderPlaced("a"))

        state = await box.store.run(box.store.outbox.state())

    assert state.pending == 1


async def test_a_connection_without_a_transaction_is_refused(store_url: str) -> None:
    box, _ = make_box(store_url)
    async with box, box.store.engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")

        with pytest.raises(NoTransactionError):
            await box.publish(OrderPlaced("a"), tx=autocommit)


@pytest.mark.parametrize("odd", [None, OrderPlaced("a"), {OrderPlaced("a")}, (OrderPlaced(key) for key in "ab")])
async def test_what_is_no_sequence_of_messages_is_refused(sqlite_url: str, odd: object) -> None:
    box, _ = make_box(sqlite_url)
    async with box, box.transaction() as tx:
        with pytest.raises(ConfigurationError, match="no sequence of messages"):
            await box.publish_all(odd, tx=tx)  # type: ignore[arg-type]  # the rule under test


@pytest.mark.parametrize("odd", ["m-1", None, [None], OrderPlaced("a"), [("m-1", "order.placed")]])
async def test_what_is_no_list_of_causes_is_refused(sqlite_url: str, odd: object) -> None:
    box, _ = make_box(sqlite_url)
    async with box, box.transaction() as tx:
        with pytest.raises(ConfigurationError, match="no list of what publish"):
            await box.publish(OrderPlaced("a"), tx=tx, after=odd)  # type: ignore[arg-type]  # the rule under test


async def test_a_transaction_of_another_kind_of_database_is_refused_where_nobody_would_read_it(
    migrated_postgresql_url: str, sqlite_url: str
) -> None:
    here, there = Pillarbox("shop", store=sqlite_url), Pillarbox("shop", store=migrated_postgresql_url)
    async with here, there:
        for box, other, name in ((here, there, "postgresql"), (there, here, "sqlite")):
            async with other.transaction() as tx:
                with pytest.raises(ConfigurationError, match=f"{name}, and the box's store is {box.store.name}"):
                    await box.publish(OrderPlaced("lost"), tx=tx)
                with pytest.raises(ConfigurationError, match=name):
                    await box.publish_all([OrderPlaced("lost")], tx=tx)
            with other.transaction_sync() as connection, pytest.raises(ConfigurationError, match=name):
                box.publish_sync(OrderPlaced("lost"), tx=connection)


async def test_events_are_published_and_commands_are_sent(store_url: str) -> None:
    box, _ = make_box(store_url)
    async with box:
        async with box.transaction() as tx:
            with pytest.raises(ConfigurationError, match="send"):
                await box.publish(ChargePayment("a"), tx=tx)
            with pytest.raises(ConfigurationError, match="publish"):
                await box.send(OrderPlaced("a"), tx=tx)

        assert (await box.store.run(box.store.outbox.state())).pending == 0


async def test_a_delayed_event_is_handled_when_it_is_due_and_not_before(store_url: str) -> None:
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        await note(tx, order.order_id)

    async with box.running():
        await create_tables(box)
        async with box.transaction() as tx:
            await box.publish(OrderPlaced("far"), tx=tx, delay=timedelta(days=1))
            await box.publish(OrderPlaced("near"), tx=tx, delay=timedelta(milliseconds=400))
            await box.publish(OrderPlaced("now"), tx=tx)
        await happenings.until(MessageHandled, 2)

        assert await noted(box) == ["now", "near"]
        assert (await box.store.run(box.store.outbox.state())).scheduled == 1


async def test_messages_of_a_key_are_handled_in_the_order_of_their_transactions(store_url: str) -> None:
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        await note(tx, f"{order.order_id} {order.number}")

    async with box.running():
        await create_tables(box)
        for number in range(0, 40, 4):
            orders = [OrderPlaced(key, number + place) for place in range(4) for key in "abc"]
            await publish(box, *orders)
        await happenings.until(MessageHandled, 120)

        came = await noted(box)

    for key in "abc":
        assert [one for one in came if one.startswith(key)] == [f"{key} {number}" for number in range(40)]


async def test_what_the_caller_says_about_a_message_reaches_the_handler(store_url: str) -> None:
    box, happenings = make_box(store_url)
    seen: list[tuple[str | None, str]] = []

    @box.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced, ctx: Context) -> None:
        seen.append((ctx.key, ctx.headers["mine"]))

    async with box.running():
        async with box.transaction() as tx:
            await box.publish(OrderPlaced("a"), tx=tx, key="ключ", headers={"mine": "naïve ☃"})
        await happenings.until(MessageHandled)

    assert seen == [("ключ", "naïve ☃")]


async def _by_transaction(box: Pillarbox) -> None:
    async with box.transaction() as tx:
        await box.publish(OrderPlaced("a"), tx=tx)


async def _all_by_session(box: Pillarbox) -> None:
    async with box.session() as tx:
        await box.publish_all([OrderPlaced("a")], tx=tx)


async def _in_a_thread(box: Pillarbox) -> None:
    await _publish_in_thread(box, "Connection", OrderPlaced("a"), commit=True)


async def _listed(box: Pillarbox) -> None:
    await box.dead_letters.list()


@pytest.mark.parametrize(
    "work",
    [_by_transaction, _all_by_session, _in_a_thread, Pillarbox.health, _listed],
    ids=["transaction", "session", "thread", "health", "dead letters"],
)
async def test_a_database_without_tables_says_how_to_make_them_when_it_is_first_used(
    bare_url: str, work: Callable[[Pillarbox], Awaitable[object]]
) -> None:
    box = Pillarbox("shop", store=bare_url)

    with pytest.raises(SchemaVersionError, match="create them with: pillarbox migrate"):
        await work(box)

    await box.store.close()


@pytest.fixture(params=["sqlite", *SERVERS, MARIADB])
def bare_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database without our tables."""
    kind = request.param
    server = "sqlite" if kind == "sqlite" else "mariadb" if kind.startswith("mariadb") else "postgresql"
    url = make_url(request.getfixturevalue(f"{server}_url"))
    return url.set(drivername=kind).render_as_string(hide_password=False)
