"""What MariaDB lets go wrong: waiting producers, frozen snapshots, folded or cut ids (RELIABILITY B13, B14, G3)."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, create_engine, event, func, make_url, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

import pillarbox
from pillarbox import Pillarbox, Retry, Settings
from pillarbox.errors import ConfigurationError, ConflictError, InvalidMessageError
from pillarbox.lease import LeaseTerms
from pillarbox.message import Limits
from pillarbox.observe import ConsumerStopped, MessageDead, MessageHandled
from pillarbox.outbox import record_of
from pillarbox.relational.tables import inbox, outbox, outbox_scheduled
from pillarbox.relay.reader import ReadPlan
from pillarbox.stores.mysql import mysql_store
from pillarbox.testing.contracts.harness import EVERY_SLOT, LONG, make_message, make_record
from pillarbox.transaction import adopt, adopt_sync
from tests.integration.boxes import (
    SETTINGS,
    OrderPlaced,
    create_tables,
    make_box,
    note,
    note_sync,
    noted,
    publish,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

    from sqlalchemy import Engine

    from pillarbox.relational import RelationalStore

CONSUMER = "shop/one"
RELAY = LeaseTerms(scope="relay", slots=64, ttl=LONG)
LOOKALIKES = ["Msg1", "mSG1", "msg1 ", "msg1", "y" * 199 + "a", "y" * 199 + "b"]
"""A folding collation makes one of the first four, a cut to the column's width minus one of the last two."""


@pillarbox.event("order.shipped", key=None)
@dataclasses.dataclass(frozen=True)
class Shipped:
    """What has no bound."""

    papers: str


@pytest.fixture
async def store(mariadb_url: str) -> AsyncIterator[RelationalStore]:
    store = mysql_store(make_url(mariadb_url))
    await store.migrate()
    yield store
    await store.close()


@contextmanager
def inserts_on(engine: Engine) -> Generator[list[str]]:
    """Collect the INSERT statements that are sent through ``engine`` meanwhile."""
    sent: list[str] = []

    def note_insert(*sending: object) -> None:
        if str(sending[2]).startswith("INSERT"):
            sent.append(str(sending[2]))

    event.listen(engine, "before_cursor_execute", note_insert)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note_insert)


# --- B13 -------------------------------------------------------------------------------------------------------------


async def test_what_a_relay_or_receiver_locks_never_makes_a_producer_wait(store: RelationalStore) -> None:
    await store.run(store.outbox.append([make_record(f"m{number}") for number in range(9)]))
    tokens = list((await store.run(store.leases.heartbeat(RELAY, "relay"))).tokens.values())

    async with store.begin() as claiming:
        plan = ReadPlan(slots=EVERY_SLOT, in_flight=(), paused=(), limit=99)
        found = await claiming.run(store.slots.read(plan))
        settled = await claiming.run(store.slots.settle(RELAY.scope, tokens, [one.position for one in found]))
        assert (len(found), settled) == (9, 9)
        async with asyncio.timeout(5), store.begin() as producing:
            await producing.run(store.outbox.append([make_record("later", key="another")]))

    assert await _ids(store) == ["later"]


async def test_a_producer_at_repeatable_read_does_not_wait_for_a_relay_either(store: RelationalStore) -> None:
    await store.run(store.outbox.append([make_record(f"m{number}") for number in range(9)]))
    engine = create_async_engine(store.engine.url, isolation_level="REPEATABLE READ")

    async with store.begin() as claiming:
        await claiming.connection.execute(select(outbox.c.position).with_for_update(skip_locked=True))
        async with asyncio.timeout(5), engine.begin() as producing:
            await adopt(producing).run(store.outbox.append([make_record("later", key="another")]))
    await engine.dispose()

    assert "later" in await _ids(store)


# --- many rows -------------------------------------------------------------------------------------------------------


async def test_many_records_are_one_statement_and_lie_in_their_order(store: RelationalStore) -> None:
    names = [f"m{number}" for number in range(300)]
    later = [f"later{number}" for number in range(40)]
    delay = timedelta(hours=1)

    with inserts_on(store.engine.sync_engine) as sent:
        scheduled = [dataclasses.replace(make_record(name), due_in=delay) for name in later]
        await store.run(store.outbox.append([*(make_record(name, name) for name in names), *scheduled]))

    assert [one.split()[2] for one in sent] == ["pillarbox_outbox", "pillarbox_outbox_scheduled"]
    assert await _ids(store) == names
    async with store.begin() as tx:
        due = (await tx.connection.scalars(select(outbox_scheduled.c.due_at))).all()
        assert (len(due), len(set(due))) == (len(later), 1), "one statement has one clock"


async def test_records_too_large_for_one_packet_are_several_statements(store: RelationalStore) -> None:
    bodies = [bytes([number]) * 3_000_000 for number in range(8)]
    records = [make_record(f"m{number}") for number in range(8)]

    with inserts_on(store.engine.sync_engine) as sent:
        await store.run(
            store.outbox.append(
                [
                    dataclasses.replace(record, message=replace(record.message, body=body))
                    for record, body in zip(records, bodies, strict=True)
                ]
            )
        )

    assert len(sent) == len(bodies)
    async with store.begin() as tx:
        stored = await tx.connection.scalars(select(outbox.c.payload).order_by(outbox.c.position))
        assert [bytes(body) for body in stored] == bodies


@pytest.mark.parametrize("body", [b"x" * 17_000_000, b"\\" * 8_500_000])
async def test_a_record_that_no_packet_holds_is_refused_and_not_taken_for_a_lost_connection(
    store: RelationalStore, body: bytes
) -> None:
    record = make_record("large")
    record = dataclasses.replace(record, message=replace(record.message, body=body))

    async with store.begin() as tx:
        await tx.run(store.outbox.append([make_record("before")]))
        with pytest.raises(InvalidMessageError, match="max_allowed_packet = 16777216"):
            await tx.run(store.outbox.append([make_record("beside"), record]))
        with pytest.raises(InvalidMessageError, match="max_allowed_packet"):
            await tx.run(store.outbox.append([dataclasses.replace(record, due_in=LONG)]))

    assert await _ids(store) == ["before"]


async def test_the_headers_of_a_record_count_as_what_a_packet_holds(store: RelationalStore) -> None:
    """So do their quotation marks, which are escaped."""
    headers = {f"x-{number}": "v" * 1_000 for number in range(10)}
    message = replace(make_message("large"), body=b"x" * (16_777_216 - 10_000), headers=headers)

    with pytest.raises(InvalidMessageError, match="max_allowed_packet = 16777216"):
        await store.run(store.outbox.append([record_of(message)]))


async def test_a_message_that_is_stored_can_be_put_aside_with_the_history_of_its_failures(mariadb_url: str) -> None:
    """Else its handler would be called for ever: no attempt could be written down."""
    settings = dataclasses.replace(SETTINGS, limits=Limits(max_body_bytes=20_000_000))
    box, happenings = make_box(mariadb_url, settings=settings)

    @box.on(Shipped, name="one", retry=Retry(attempts=3, immediate=1, first=timedelta(milliseconds=1)))
    async def fail(shipped: Shipped, tx: AsyncConnection) -> None:
        raise ConnectionError("é" * 2_000)

    async with box, box.running():
        with pytest.raises(InvalidMessageError, match="max_allowed_packet"):
            await publish(box, Shipped("x" * (16_777_216 - 3_000)))
        await publish(box, Shipped("x" * (16_777_216 - 101_500)))
        (dead,) = await happenings.until(MessageDead)

    assert dead.attempts == 3


async def test_a_handler_whose_answer_no_packet_holds_stops_neither_its_neighbours_nor_its_consumer(
    mariadb_url: str,
) -> None:
    settings = dataclasses.replace(SETTINGS, limits=Limits(max_body_bytes=20_000_000))
    box, happenings = make_box(mariadb_url, settings=settings)

    @box.on(OrderPlaced, name="one")
    async def answer(order: OrderPlaced, tx: AsyncConnection) -> Shipped:
        await note(tx, order.order_id)
        return Shipped("x" * (17_000_000 if order.order_id == "large" else 1))

    async with box, box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("o-1"), OrderPlaced("large", 1), OrderPlaced("o-2"), OrderPlaced("o-3"))
        (dead,) = await happenings.until(MessageDead)
        await happenings.until(MessageHandled, 3)
        assert sorted(await noted(box)) == ["o-1", "o-2", "o-3"]

    assert "InvalidMessageError" in str(dead)


@pytest.mark.parametrize("idempotency", ["inbox", "natural"])
async def test_a_handler_without_transaction_whose_answer_no_packet_holds_is_called_once(
    mariadb_url: str, idempotency: str
) -> None:
    settings = dataclasses.replace(SETTINGS, limits=Limits(max_body_bytes=20_000_000))
    box, happenings = make_box(mariadb_url, settings=settings)
    calls: list[str] = []

    @box.on(OrderPlaced, name="one", outside=True, idempotency=idempotency)  # type: ignore[call-overload]
    async def answer(order: OrderPlaced) -> Shipped:
        calls.append(order.order_id)
        return Shipped("x" * (17_000_000 if order.order_id == "large" else 1))

    async with box, box.running():
        await create_tables(box)
        large, behind = OrderPlaced("large", 1), OrderPlaced("large", 2)
        await publish(box, OrderPlaced("o-1"), large, behind, OrderPlaced("o-2"), OrderPlaced("o-3"))
        dead, *_ = await happenings.until(MessageDead)
        await happenings.until(MessageHandled, 3)

    assert "InvalidMessageError" in str(dead)
    assert calls.count("large") == 1 or idempotency == "natural"
    assert {one: calls.count(one) for one in calls if one != "large"} == {"o-1": 1, "o-2": 1, "o-3": 1}


async def test_a_consumer_that_stops_at_a_dead_letter_stops_at_one_whose_answer_no_packet_holds(
    mariadb_url: str,
) -> None:
    settings = dataclasses.replace(SETTINGS, limits=Limits(max_body_bytes=20_000_000))
    box, happenings = make_box(mariadb_url, settings=settings)
    calls: list[str] = []

    @box.on(OrderPlaced, name="one", outside=True, when_dead="stop", concurrency=1)
    async def answer(order: OrderPlaced) -> Shipped:
        calls.append(order.order_id)
        return Shipped("x" * (17_000_000 if order.order_id == "large" else 1))

    async with box:
        await create_tables(box)
        async with box.running(relay=False):
            pass  # so that all of them come at once
        await publish(box, OrderPlaced("o-1"), OrderPlaced("large"), OrderPlaced("o-2"), OrderPlaced("o-3"))
        async with box.running():
            await happenings.until(ConsumerStopped)

    assert calls == ["o-1", "large"]


async def test_the_caller_s_own_statements_go_as_they_did(mariadb_url: str, store: RelationalStore) -> None:
    """Also when ours failed: what a session sends is for its owner to say."""
    engine = create_async_engine(make_url(mariadb_url).set(drivername="mysql+asyncmy"))
    async with engine.begin() as theirs:
        dialect = theirs.sync_connection.dialect if theirs.sync_connection else None
        await adopt(theirs).run(store.outbox.append([make_record("m1"), make_record("m2")]))
        with pytest.raises(DBAPIError):
            await adopt(theirs).run(store.outbox.append([make_record("x" * 300), make_record("m3")]))
        assert theirs.sync_connection is not None
        assert theirs.sync_connection.dialect is dialect is engine.dialect
        assert not engine.dialect.use_insertmanyvalues_wo_returning
    await engine.dispose()


# --- B14 -------------------------------------------------------------------------------------------------------------


async def test_a_transaction_that_polls_sees_what_is_committed_later(store: RelationalStore) -> None:
    plan = ReadPlan(slots=EVERY_SLOT, in_flight=(), paused=(), limit=9)

    async with store.begin() as polling:
        assert not await polling.run(store.slots.read(plan))
        await store.run(store.outbox.append([make_record("m1")]))
        assert [one.message.id for one in await polling.run(store.slots.read(plan))] == ["m1"]


async def test_the_transactions_of_a_lent_engine_are_read_committed_too(mariadb_url: str) -> None:
    url = make_url(mariadb_url).set(drivername="mariadb+asyncmy")
    lent = create_async_engine(url)
    store = mysql_store(lent)
    await store.migrate()

    async with store.begin() as ours, lent.connect() as theirs:
        assert (await ours.connection.scalar(text("SELECT @@tx_isolation"))) == "READ-COMMITTED"
        assert (await theirs.scalar(text("SELECT @@tx_isolation"))) == "REPEATABLE-READ"
    await lent.dispose()


# --- G3 --------------------------------------------------------------------------------------------------------------


async def test_ids_that_look_alike_are_six_messages_with_six_effects(store: RelationalStore) -> None:
    assert set(await store.run(store.inbox.record(CONSUMER, LOOKALIKES))) == set(LOOKALIKES)
    assert not await store.run(store.inbox.record(CONSUMER, LOOKALIKES))

    async with store.begin() as tx:
        assert await tx.connection.scalar(select(func.count()).select_from(inbox)) == len(LOOKALIKES)


@pytest.mark.parametrize("too_long", ["z" * 201, "é" * 201])
async def test_an_id_wider_than_its_column_is_refused_and_not_cut(store: RelationalStore, too_long: str) -> None:
    with pytest.raises(DBAPIError):
        await store.run(store.inbox.record(CONSUMER, [too_long]))
    with pytest.raises(DBAPIError):
        await store.run(store.outbox.append([make_record(too_long)]))

    async with store.begin() as tx:
        assert await tx.connection.scalar(select(func.count()).select_from(inbox)) == 0
    assert await _ids(store) == []


async def test_keys_that_look_alike_are_different_keys(store: RelationalStore) -> None:
    keys = ["k", "K", "k ", "ключ", "🔑", "k" * 512]
    await store.run(store.outbox.append([make_record(f"m{at}", key=key) for at, key in enumerate(keys)]))

    plan = ReadPlan(slots=EVERY_SLOT, in_flight=(), paused=(), limit=9)
    assert [one.message.key for one in await store.run(store.slots.read(plan))] == keys


async def test_a_payload_larger_than_a_blob_comes_back_whole(store: RelationalStore) -> None:
    body = bytes(range(256)) * 4_000
    await store.run(store.outbox.append([record_of(replace(make_message("large"), body=body))]))

    plan = ReadPlan(slots=EVERY_SLOT, in_flight=(), paused=(), limit=9)
    assert [one.message.body for one in await store.run(store.slots.read(plan))] == [body]


async def test_of_two_transactions_with_the_same_ids_the_second_waits_and_records_the_rest(
    store: RelationalStore,
) -> None:
    async with asyncio.TaskGroup() as tasks, store.begin() as first:
        assert set(await first.run(store.inbox.record(CONSUMER, ["a", "b"]))) == {"a", "b"}
        second = tasks.create_task(store.run(store.inbox.record(CONSUMER, ["a", "b", "c"])))
        done, _ = await asyncio.wait([second], timeout=0.3)
        assert not done

    assert set(second.result()) == {"c"}


async def test_of_two_transactions_with_the_same_id_the_second_records_it_when_the_first_rolls_back(
    store: RelationalStore,
) -> None:
    async with asyncio.TaskGroup() as tasks, store.begin() as first:
        await first.run(store.inbox.record(CONSUMER, ["a"]))
        second = tasks.create_task(store.run(store.inbox.record(CONSUMER, ["a"])))
        await asyncio.wait([second], timeout=0.3)
        await first.connection.rollback()

    assert set(second.result()) == {"a"}


async def test_of_three_duplicates_at_once_whose_first_rolls_back_one_is_recorded(store: RelationalStore) -> None:
    async def record() -> set[str]:
        while True:
            try:
                return set(await store.run(store.inbox.record(CONSUMER, ["a"])))
            except ConflictError:
                continue  # InnoDB chose it as the victim of a deadlock: not an attempt

    async with asyncio.TaskGroup() as tasks, store.begin() as first:
        await first.run(store.inbox.record(CONSUMER, ["a"]))
        others = [tasks.create_task(record()) for _ in range(2)]
        await asyncio.wait(others, timeout=0.3)
        await first.connection.rollback()

    assert sorted(len(one.result()) for one in others) == [0, 1]


async def test_messages_that_look_alike_are_handled_each(mariadb_url: str) -> None:
    box, happenings = make_box(mariadb_url)
    seen: list[str] = []

    @box.on(OrderPlaced, name="one")
    async def handle(order: OrderPlaced) -> None:
        seen.append(order.order_id)

    async with box, box.running():
        await publish(box, *[OrderPlaced(name) for name in LOOKALIKES])
        await happenings.until_settled(len(LOOKALIKES))

    assert sorted(seen) == sorted(LOOKALIKES)


# --- whose transactions can be joined, and whose servers -------------------------------------------------------------


async def test_a_synchronous_engine_of_the_callers_is_a_place(mariadb_url: str) -> None:
    engine = create_engine(make_url(mariadb_url).set(drivername="mysql+pymysql"))
    box = Pillarbox("shop", store=engine, settings=Settings(migrate_on_open=True))

    async with box:
        with engine.begin() as tx:
            box.publish_sync(OrderPlaced("kept"), tx=tx)
        with engine.connect() as tx:
            box.publish_sync(OrderPlaced("gone"), tx=tx)
            tx.rollback()
        assert (await box.store.run(box.store.outbox.state())).pending == 1
    engine.dispose()


@pytest.mark.parametrize("driver", ["asyncmy", "pymysql"])
async def test_a_driver_s_own_connection_is_refused_by_name(mariadb_url: str, driver: str) -> None:
    url = make_url(mariadb_url)
    if driver == "pymysql":
        import pymysql

        connection = pymysql.connect(host=url.host, port=url.port or 0, user=url.username, database=url.database)
        with pytest.raises(ConfigurationError, match=r"pymysql.*SQLAlchemy"):
            adopt_sync(connection)  # type: ignore[arg-type]
        connection.close()
    else:
        import asyncmy

        bare = await asyncmy.connect(host=url.host, port=url.port, user=url.username, database=url.database)
        with pytest.raises(ConfigurationError, match=r"asyncmy.*SQLAlchemy"):
            adopt(bare)
        await bare.ensure_closed()


async def test_a_lent_engine_whose_sessions_cut_values_is_refused(mariadb_url: str) -> None:
    url = make_url(mariadb_url).set(drivername="mysql+asyncmy")
    lax = create_async_engine(url, connect_args={"init_command": "SET SESSION sql_mode = ''"})

    with pytest.raises(ConfigurationError, match="STRICT_TRANS_TABLES"):
        await mysql_store(lax).migrate()
    await lax.dispose()


async def test_effects_and_what_is_published_commit_together(mariadb_url: str) -> None:
    box, _ = make_box(mariadb_url)
    async with box:
        await create_tables(box)
        async with box.store.engine.connect() as tx:
            await note(tx, "gone")
            await box.publish(OrderPlaced("gone"), tx=tx)
            await tx.rollback()
        assert await noted(box) == []
        assert (await box.store.run(box.store.outbox.state())).pending == 0


async def test_a_waiter_for_a_lock_is_told_to_try_again(mariadb_url: str) -> None:
    lent = create_async_engine(make_url(mariadb_url).set(drivername="mysql+asyncmy"))
    store = mysql_store(make_url(mariadb_url))
    await store.migrate()

    async def impatient() -> None:
        async with store.begin() as second:
            await second.connection.execute(text("SET SESSION innodb_lock_wait_timeout = 1"))
            try:
                await second.run(store.inbox.record(CONSUMER, ["a"]))
            except DBAPIError as error:
                raise store.translate(error) from error

    async with store.begin() as first:
        await first.run(store.inbox.record(CONSUMER, ["a"]))
        with pytest.raises(ConflictError):
            await impatient()
    await store.close()
    await lent.dispose()


async def _ids(store: RelationalStore) -> list[str]:
    async with store.begin() as tx:
        return list((await tx.connection.scalars(select(outbox.c.id).order_by(outbox.c.position))).all())


@pytest.mark.parametrize("is_plain", [False, True], ids=["async", "in-a-thread"])
async def test_a_handler_that_swallows_a_deadlock_does_not_lose_what_was_handled_before(
    mariadb_url: str, *, is_plain: bool
) -> None:
    """InnoDB rolls back the whole run at a deadlock; its inbox rows and the effects of the others come again."""
    box, happenings = make_box(mariadb_url)
    rival = Rival(mariadb_url)
    met: list[int] = []

    def write(order: OrderPlaced, tx: Connection) -> None:
        note_sync(tx, f"{order.order_id} {order.number}")
        if order.number != 3:
            return
        for _ in range(2):
            try:
                tx.execute(text("UPDATE accounts SET cents = cents + 1 WHERE id = 1"))
                if not met:
                    met.append(order.number)
                    rival.go_for_the_first_account()
                tx.execute(text("UPDATE accounts SET cents = cents + 1 WHERE id = 2"))
            except OperationalError:
                continue
            return

    if is_plain:
        box.on(OrderPlaced, name="write")(write)
    else:

        @box.on(OrderPlaced, name="write")
        async def write_too(order: OrderPlaced, tx: AsyncConnection) -> None:
            await tx.run_sync(lambda inner: write(order, inner))

    async with box.running():
        await create_tables(box)
        rival.take_the_second_account()
        await publish(box, *(OrderPlaced("o", number) for number in range(1, 6)))
        await happenings.until(MessageHandled, 5)

        assert met == [3]
        assert sorted(await noted(box)) == [f"o {number}" for number in range(1, 6)]
    rival.close()


class Rival:
    """Another transaction, so large that it is not the one that is rolled back; it takes its locks the other way."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(make_url(url).set(drivername="mysql+pymysql"))
        self._thread: threading.Thread | None = None

    def take_the_second_account(self) -> None:
        self._connection = self._engine.connect()
        for statement in (
            "CREATE TABLE accounts (id INT PRIMARY KEY, cents INT)",
            "INSERT INTO accounts VALUES (1, 0), (2, 0)",
            "CREATE TABLE ballast (id INT PRIMARY KEY)",
        ):
            self._connection.execute(text(statement))
        self._connection.commit()
        self._connection.execute(text("INSERT INTO ballast SELECT seq FROM seq_1_to_1000"))
        self._connection.execute(text("UPDATE accounts SET cents = 9 WHERE id = 2"))

    def go_for_the_first_account(self) -> None:
        self._thread = threading.Thread(target=self._go)
        self._thread.start()

    def _go(self) -> None:
        self._connection.execute(text("UPDATE accounts SET cents = 9 WHERE id = 1"))
        self._connection.commit()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self._connection.close()
        self._engine.dispose()
