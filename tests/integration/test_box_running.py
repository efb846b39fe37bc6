"""Starting and stopping a box, and what it finds of earlier starts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import pytest
from msgspec import structs
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from pillarbox import (
    CircuitBreaker,
    Context,
    Handlers,
    LogAlert,
    Pillarbox,
    Retry,
    Saga,
    command,
    event,
)
from pillarbox.errors import ConfigurationError, InvalidSetupError, SchemaVersionError, UnregisteredConsumerError
from pillarbox.observe import MessageDead, MessageHandled, WorkerFaltered
from pillarbox.routing import WireTap
from tests.integration.boxes import (
    ChargePayment,
    Happenings,
    OrderPlaced,
    StockReserved,
    create_tables,
    make_box,
    note,
    noted,
    publish,
)
from tests.messages import message


@pytest.fixture(params=["sqlite", pytest.param("postgresql+psycopg", marks=pytest.mark.server)])
def lasting_url(request: pytest.FixtureRequest) -> str:
    """A store that outlives its box."""
    if request.param == "sqlite":
        url: str = request.getfixturevalue("sqlite_url")
        return url
    server: str = request.getfixturevalue("postgresql_url")
    return server.replace("postgresql://", f"{request.param}://")


def _with_noting_handler(url: str, name: str, **options: object) -> tuple[Pillarbox, Happenings]:
    box, happenings = make_box(url)

    @box.on(OrderPlaced, name=name, **options)  # type: ignore[call-overload]
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        await note(tx, f"{name} {order.order_id}")

    return box, happenings


async def test_what_is_declared_while_the_box_runs_is_refused() -> None:
    """Nobody would hear it."""
    box, _ = make_box("memory://")
    late, route, part = Handlers(), WireTap("audit", source=OrderPlaced, to="audit"), Handlers()
    box.include(part)
    async with box.running():
        for declare in (
            lambda: box.on(OrderPlaced)(handle),
            lambda: part.on(OrderPlaced)(handle),
            lambda: box.include(late),
            lambda: box.include(route),
            lambda: box.alert_to(LogAlert()),
            lambda: box.dependency("bank", CircuitBreaker()),
            lambda: box.flow("order", starts=OrderPlaced, ends=StockReserved, within=timedelta(minutes=1)),
        ):
            with pytest.raises(ConfigurationError, match="the box is running"):
                declare()
    box.on(OrderPlaced)(handle)
    assert [one.identity for one in box.consumers()] == ["shop/handle"]


async def handle(order: OrderPlaced) -> None: ...


async def test_a_stop_while_the_box_opens_is_heard() -> None:
    """As of a signal that comes early; it would run until it is killed."""
    box, _ = make_box("memory://")

    async def run() -> None:
        async with box.running():
            assert box._runnings[0]._stopping

    for work in (box.run, run):
        async with asyncio.TaskGroup() as group, asyncio.timeout(10):
            running = group.create_task(work())
            await asyncio.sleep(0)
            box.stop()
            await running


async def test_a_stop_ends_each_run_of_a_box() -> None:
    box, happenings = make_box("memory://")
    box.on(OrderPlaced)(handle)
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        runs = [group.create_task(box.run(consumers=False)), group.create_task(box.run(relay=False))]
        async with box:
            await publish(box, OrderPlaced("a"))
            await happenings.until(MessageHandled)
        box.stop()
        await asyncio.wait(runs)


async def test_stopping_lets_what_is_under_way_end_and_leaves_the_rest(lasting_url: str) -> None:
    box, happenings = make_box(lasting_url)
    begun, finish = asyncio.Event(), asyncio.Event()

    @box.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        await note(tx, order.order_id)
        begun.set()
        await finish.wait()

    async with box:
        await create_tables(box)
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            running = group.create_task(box.run())
            await publish(box, OrderPlaced("a"))
            await begun.wait()
            box.stop()
            assert not running.done()
            finish.set()
        await publish(box, OrderPlaced("b"))

        assert await noted(box) == ["a"]
        assert len(happenings.of(MessageHandled)) == 1

    again, happened = _with_noting_handler(lasting_url, "handle")
    async with again.running():
        await happened.until(MessageHandled)
        assert await noted(again) == ["a", "handle b"]


async def test_the_workers_run_as_long_as_the_block_lasts(store_url: str) -> None:
    box, happenings = _with_noting_handler(store_url, "handle")

    async with box.running() as running:
        assert running is box
        await create_tables(box)
        await publish(box, OrderPlaced("a"))
        await happenings.until(MessageHandled)
        assert await noted(box) == ["handle a"]

    assert box.in_hand == 0


async def test_a_block_in_another_leaves_the_box_open(store_url: str) -> None:
    box, happenings = _with_noting_handler(store_url, "handle")

    async with box.running():
        await create_tables(box)
        async with box:
            await publish(box, OrderPlaced("a"))
        await happenings.until(MessageHandled)

        assert await noted(box) == ["handle a"]
        assert not happenings.of(WorkerFaltered)


async def test_blocks_side_by_side_close_the_box_with_the_last_of_them() -> None:
    box, _ = make_box("memory://")
    others_are_through = asyncio.Event()

    async def one(number: int) -> None:
        async with box:
            await publish(box, OrderPlaced(str(number)))
            if number == 0:
                await others_are_through.wait()
                assert (await box.health()).vitals.outbox.pending == 3

    async with asyncio.TaskGroup() as group:
        group.create_task(one(0))
        async with asyncio.TaskGroup() as others:
            others.create_task(one(1))
            others.create_task(one(2))
        others_are_through.set()


async def test_an_error_of_the_block_comes_out_as_it_is(store_url: str) -> None:
    box, _ = make_box(store_url)

    with pytest.raises(ZeroDivisionError):
        async with box.running():
            raise ZeroDivisionError


async def test_everything_wrong_is_said_before_anything_starts(store_url: str) -> None:
    box, _ = _with_noting_handler(store_url, "handle", concurrency=0)
    box.on(StockReserved, name="Bad Name")(_ignore)

    with pytest.raises(InvalidSetupError) as refused:
        async with box.running():
            pytest.fail("it started")

    assert len(refused.value.problems) == 2


@event("order.weighed", key="order_id")
@dataclass(frozen=True)
class OrderWeighed:
    order_id: str
    at: Unknown | None = None  # type: ignore[name-defined]  # noqa: F821  # as an import under TYPE_CHECKING is


@command("order.weigh", queue="weighing", key="order_id")
@dataclass(frozen=True)
class WeighOrder:
    order_id: str
    at: Unknown | None = None  # type: ignore[name-defined]  # noqa: F821


async def test_what_is_sent_and_cannot_be_carried_is_said_at_the_start_with_its_place(store_url: str) -> None:
    box, _ = make_box(store_url)
    weighing = Saga("weighing", state=StockReserved)

    @box.on(StockReserved, name="weigh")
    async def weigh(reserved: StockReserved) -> list[OrderWeighed] | None: ...

    @box.on(OrderPlaced, name="tell", publishes=(OrderWeighed,))
    async def tell(placed: OrderPlaced, ctx: Context) -> None: ...

    @weighing.request(replies=(StockReserved,))
    def ask(state: StockReserved) -> WeighOrder:
        return WeighOrder(state.order_id)

    box.include(weighing)

    with pytest.raises(InvalidSetupError) as refused:
        async with box.running():
            pytest.fail("it started")

    told = [str(problem) for problem in refused.value.problems]
    assert [one.partition(":")[0] for one in told] == [
        "consumer shop/weigh sends what cannot be sent",
        "consumer shop/tell sends what cannot be sent",
        "step 'ask' of shop/weighing sends what cannot be sent",
    ]
    assert all("name 'Unknown' is not defined" in one for one in told)


async def test_a_store_without_tables_says_how_to_make_them(postgresql_url: str) -> None:
    box = Pillarbox("shop", store=postgresql_url)

    with pytest.raises(SchemaVersionError, match="pillarbox migrate"):
        async with box:
            pytest.fail("it opened")


async def test_tables_that_may_not_be_read_are_not_called_absent(migrated_postgresql_url: str) -> None:
    url = make_url(migrated_postgresql_url).set(drivername="postgresql+psycopg")
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text("CREATE ROLE stranger LOGIN"))
    try:
        stranger = url.set(username="stranger").render_as_string(hide_password=False)
        with pytest.raises(DBAPIError, match="permission denied"):
            async with Pillarbox("shop", store=stranger):
                pytest.fail("it opened")
    finally:
        async with engine.connect() as connection:
            await connection.execute(text("DROP ROLE stranger"))
        await engine.dispose()


async def test_a_consumer_that_is_gone_with_work_pending_stops_the_start(lasting_url: str) -> None:
    await _leave_work_for(lasting_url, "old-name")
    box, _ = _with_noting_handler(lasting_url, "new-name")

    with pytest.raises(InvalidSetupError) as refused:
        async with box.running():
            pytest.fail("it started")

    (problem,) = refused.value.problems
    assert isinstance(problem, UnregisteredConsumerError)
    assert (problem.consumer, problem.pending) == ("shop/old-name", 1)
    assert "renamed_from='old-name'" in str(problem)


async def test_a_consumer_that_another_process_has_is_not_forgotten(lasting_url: str) -> None:
    """A process of the release before starts in the middle of a deployment."""
    newer, happenings = _with_noting_handler(lasting_url, "added")
    older, _ = _with_noting_handler(lasting_url, "known")
    async with newer.running():
        await create_tables(newer)
        await publish(newer, OrderPlaced("a"))
        await happenings.until(MessageHandled)
        async with older.running(relay=False):
            pass
        await publish(newer, OrderPlaced("b"))
        await happenings.until(MessageHandled, 2)

        assert await noted(newer) == ["added a", "added b"]


async def test_a_queue_that_another_service_reads_is_refused_until_that_has_stopped(lasting_url: str) -> None:
    """Each of its messages would go to the one or the other."""
    first, _ = make_box(lasting_url, service="billing")
    second, happenings = make_box(lasting_url, service="shipping")
    for box in (first, second):

        @box.on(ChargePayment, name="charge")
        async def charge(payment: ChargePayment, tx: AsyncConnection) -> None:
            await note(tx, payment.order_id)

    async with first.running():
        with pytest.raises(ConfigurationError, match="has the consumer billing/charge already"):
            async with second.running():
                pytest.fail("it started")
    async with second.running():
        await create_tables(second)
        await publish(second, ChargePayment("o-1"))
        await happenings.until(MessageHandled)


async def test_its_successor_takes_over_what_it_left_also_after_a_start_that_failed(lasting_url: str) -> None:
    await _leave_work_for(lasting_url, "old-name")
    forgetful, _ = _with_noting_handler(lasting_url, "new-name")
    with pytest.raises(InvalidSetupError):
        async with forgetful.running():
            pytest.fail("it started")

    box, happenings = _with_noting_handler(lasting_url, "new-name", renamed_from="old-name")
    async with box.running():
        await happenings.until(MessageHandled)
        assert await noted(box) == ["new-name a"]

    again, happened = _with_noting_handler(lasting_url, "new-name", renamed_from="old-name")
    async with again.running():
        await publish(again, OrderPlaced("b"))
        await happened.until(MessageHandled)
        assert await noted(again) == ["new-name a", "new-name b"]


async def test_a_successor_does_not_handle_again_what_was_handled(lasting_url: str) -> None:
    first, happenings = _with_noting_handler(lasting_url, "old-name")
    async with first.running():
        await create_tables(first)
        await first.broker.sender().send([message("m1")])
        await happenings.until(MessageHandled)

    second, happened = _with_noting_handler(lasting_url, "new-name", renamed_from="old-name")
    async with second.running():
        await second.broker.sender().send([message("m1"), message("m2")])
        await happened.until(MessageHandled)
        assert await noted(second) == ["old-name o-1", "new-name o-1"]


async def test_dead_letters_of_a_renamed_consumer_can_be_replayed(lasting_url: str) -> None:
    first, happenings = make_box(lasting_url)

    @first.on(OrderPlaced, name="old-name", retry=Retry(attempts=1))
    async def fail(order: OrderPlaced, tx: AsyncConnection) -> None:
        raise ValueError("no")

    async with first.running():
        await create_tables(first)
        await publish(first, OrderPlaced("a"))
        await happenings.until(MessageDead)

    second, happened = _with_noting_handler(lasting_url, "new-name", renamed_from="old-name")
    async with second.running():
        (letter,) = await second.dead_letters.list()
        assert letter.consumer == "shop/new-name"
        await second.dead_letters.replay(letter.id, by="me")
        await happened.until(MessageHandled)
        assert await noted(second) == ["new-name a"]


async def test_a_consumer_that_is_gone_without_work_is_forgotten(lasting_url: str) -> None:
    first, _ = _with_noting_handler(lasting_url, "old-name")
    async with first.running():
        pass

    second, happenings = _with_noting_handler(lasting_url, "new-name")
    async with second.running():
        await create_tables(second)
        await publish(second, OrderPlaced("a"))
        await happenings.until(MessageHandled)
        assert await noted(second) == ["new-name a"]


async def test_services_of_one_database_leave_each_other_alone(lasting_url: str) -> None:
    """Also where the name of one would match the other's as a pattern."""
    for service in ("my-shop", "my_shop"):
        box = Pillarbox(service, store=lasting_url, settings=make_box(lasting_url)[0].settings)
        box.on(OrderPlaced, name=f"of-{service}")(_ignore)
        async with box.running():
            pass

    async with box.store.engine.connect() as connection:
        consumers = await connection.exec_driver_sql("SELECT consumer FROM pillarbox_consumers ORDER BY consumer")
        assert [row[0] for row in consumers] == ["my-shop/of-my-shop", "my_shop/of-my_shop"]
    await box.store.close()


async def test_a_command_waits_for_its_consumer(lasting_url: str) -> None:
    first, _ = make_box(lasting_url)
    async with first.running():
        await create_tables(first)
        await publish(first, ChargePayment("a"))

    second, happenings = make_box(lasting_url)

    @second.on(ChargePayment, name="charge")
    async def charge(command: ChargePayment, tx: AsyncConnection) -> None:
        await note(tx, command.order_id)

    async with second.running():
        await happenings.until(MessageHandled)
        assert await noted(second) == ["a"]


async def _ignore(order: OrderPlaced, tx: AsyncConnection) -> None: ...


async def _leave_work_for(url: str, name: str) -> None:
    """Let a consumer be known and a message wait for it."""
    box, _ = _with_noting_handler(url, name)
    async with box.running():
        await create_tables(box)
    async with box:
        waiting = structs.replace(message("m1"), body=b'{"order_id": "a"}')
        await box.broker.sender().send([waiting])
