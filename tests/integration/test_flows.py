"""Flows at work: what does not come is told of in time, once, by name; what comes is not."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Alert, AlertRules, Retry
from pillarbox.errors import InvalidSetupError, NotFoundError
from pillarbox.flow import Trace, TracedMessage
from pillarbox.flow.record import HandlingState
from pillarbox.flow.tracker import note
from pillarbox.message import Message
from pillarbox.message import headers as names
from pillarbox.observe import FlowDoubtful, FlowStuck, MessageDead, MessageHandled
from pillarbox.relational.expressions import micros
from pillarbox.relational.flow_tables import flow_instances
from pillarbox.relational.tables import members
from pillarbox.testing import Harness
from tests.integration.boxes import make_box
from tests.integration.choreography import (
    PATIENT,
    WITHIN,
    OrderPlaced,
    OrderShipped,
    PaymentCharged,
    StockRejected,
    StockReserved,
    declare,
    has_seen,
    let_time_pass,
    make_service,
    pay,
    place,
    ship,
    stock,
)
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox import Pillarbox

ONE_OF_EACH = [
    "sqlite",
    pytest.param("postgresql+psycopg", marks=pytest.mark.server),
    pytest.param("mariadb+asyncmy", marks=pytest.mark.server),
]


def types(message: TracedMessage) -> object:
    return {message.type: [types(one) for one in message.caused]} if message.caused else message.type


async def until_ended(box: Pillarbox, count: int) -> None:
    """Wait until so many processes have ended."""
    ended = select(func.count()).select_from(flow_instances).where(flow_instances.c.state == "ended")

    async def have() -> bool:
        async with box.transaction() as tx:
            return (await tx.execute(ended)).scalar_one() >= count

    await wait_until(have, timedelta(seconds=20))


@pytest.mark.parametrize("store_url", ONE_OF_EACH, indirect=True)
async def test_the_end_that_does_not_come_is_told_of_with_who_has_not_reacted(store_url: str) -> None:
    """Its consumer is declared, and dead: the alert comes in time, once, and says what to do."""
    box, happenings = make_service("shop", store_url)
    told: list[Alert] = []

    async def tell(alert: Alert) -> None:
        told.append(alert)

    declare(box)
    for service in (pay, ship):
        service(box)
    stock(box, broken=True)
    box.alert_to(tell, rules=AlertRules(dead_letter=False, held_key=False))
    async with box.running():
        (process,) = await place(box, "o-1")
        (letter,) = await happenings.until(MessageDead)
        await has_seen(box, PaymentCharged)
        await let_time_pass(box)
        (stuck,) = await happenings.until(FlowStuck)
        await wait_until(lambda: told)
        (found,) = await box.flows.stuck()
        health = await box.health()
        trace = await box.flows.trace(process)

    assert (stuck.flow, stuck.correlation_id, stuck.culprit) == ("shop/fulfilment", process, "shop/reserve")
    assert stuck.missing == (
        "order.shipped or order.cancelled has not come",
        f"shop/reserve has not reacted to stock.reserve ({letter.message_id}) with stock.rejected or stock.reserved: "
        "that is dead there: pillarbox dead-letters list --consumer shop/reserve",
    )
    assert [alert.rule for alert in told] == ["flow-stuck"]
    assert found.missing == stuck.missing
    assert health.vitals.flows.stuck == 1
    assert any("stuck" in problem.what for problem in health.problems)
    assert types(trace.roots[0]) == {"order.placed": [{"payment.charged": ["stock.reserve"]}]}
    assert handled(trace)["stock.reserve"] == [("shop/reserve", HandlingState.DEAD)]


def handled(trace: Trace) -> dict[str, list[tuple[str, HandlingState]]]:
    return {one.type: [(each.consumer, each.state) for each in one.handlings] for one in trace.messages()}


@pytest.mark.parametrize("store_url", ONE_OF_EACH, indirect=True)
async def test_what_ends_in_time_is_not_told_of(store_url: str) -> None:
    """Also when the time has passed."""
    box, happenings = make_service("shop", store_url)
    declare(box)
    for service in (pay, stock, ship):
        service(box)
    async with box.running():
        processes = await place(box, *(f"o-{number}" for number in range(20)))
        await until_ended(box, 20)
        await let_time_pass(box)
        trace = await box.flows.trace(processes[0])
        stuck = await box.flows.stuck()

    assert stuck == ()
    assert happenings.of(FlowStuck) == []
    (root,) = trace.roots
    assert types(root) == {
        "order.placed": [{"payment.charged": [{"stock.reserve": [{"stock.reserved": ["order.shipped"]}]}]}]
    }
    assert [one.published_by for one in trace.messages()] == [
        "shop",
        "shop/charge",
        "shop/ask",
        "shop/reserve",
        "shop/ship",
    ]
    assert all(states == [HandlingState.HANDLED] for states in _states(trace)[:-1])


def _states(trace: Trace) -> list[list[HandlingState]]:
    return [[one.state for one in message.handlings] for message in trace.messages()]


@pytest.mark.parametrize("store_url", ONE_OF_EACH, indirect=True)
async def test_of_a_consumer_that_was_removed_it_is_told_what_nobody_hears_once_over_two_processes(
    store_url: str,
) -> None:
    """The graph of what runs now knows nobody who hears the message, and says what was to come."""
    boxes = [make_service("shop", store_url) for _ in range(2)]
    for box, _ in boxes:
        declare(box)
        ship(box)
        pay_without_asking(box)
    one, other = (box for box, _ in boxes)
    async with one.running(), other.running():
        processes = await place(one, *(f"o-{number}" for number in range(6)))
        await has_seen(one, PaymentCharged, 6)
        await let_time_pass(one)
        await wait_until(lambda: sum(len(happenings.of(FlowStuck)) for _, happenings in boxes) >= 6)
        last = await look_again(other)

    told = [stuck for _, happenings in boxes for stuck in happenings.of(FlowStuck)]
    assert sorted(one.correlation_id for one in told) == sorted([*processes, last])
    for stuck in told:
        assert stuck.culprit == "payment.charged"
        assert stuck.missing[1].endswith("nobody known hears it, and stock.reserved was to come")
    doubts = {(one.code, one.subject) for one in boxes[0][1].of(FlowDoubtful)}
    assert doubts == {
        ("no-way-to-end", "order.placed"),
        ("unheard-event", "payment.charged"),
        ("unpublished-event", "stock.reserved"),
    }


def pay_without_asking(box: Pillarbox) -> None:
    @box.on(OrderPlaced, name="charge")
    async def charge(order: OrderPlaced) -> PaymentCharged:
        return PaymentCharged(order.order_id)


async def look_again(box: Pillarbox) -> str:
    """Have one more process fail, and wait until that is known: those before it were looked at again by then."""
    (process,) = await place(box, "o-last")
    await has_seen(box, PaymentCharged, 7)
    await let_time_pass(box)

    async def is_stuck() -> bool:
        return any(one.correlation_id == process and one.stuck_for is not None for one in await box.flows.stuck())

    await wait_until(is_stuck)
    return process


async def test_a_reaction_that_is_late_is_told_of_long_before_the_end_is() -> None:
    """And when it comes after all the process goes on, and no more is told."""
    box, happenings = make_service("shop", "memory://")
    declare(box, react_within={PaymentCharged: WITHIN})
    pay_without_asking(box)
    ship(box)

    async with box.running():
        (process,) = await place(box, "o-1")
        (stuck,) = await happenings.until(FlowStuck)
        await box.store.run(note([late(process)], box.flows.declared, box.store.flows))

        async def goes_on() -> bool:
            return not await box.flows.stuck() and (await box.health()).vitals.flows.stuck == 0

        await wait_until(goes_on)

    assert stuck.culprit == "payment.charged"
    assert stuck.missing[0].startswith("nothing has followed payment.charged")
    assert len(happenings.of(FlowStuck)) == 1


def late(process: str) -> Message:
    """A message of another service."""
    return Message(
        id="late",
        type="stock.rejected",
        destination="topic:stock",
        key="o-1",
        content_type="application/json",
        headers={names.CORRELATION_ID: process, names.HOP: "7", names.CAUSATION_ID: "unknown"},
        body=b"{}",
    )


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.server)])
def broker(request: pytest.FixtureRequest) -> str:
    """A broker that several services share."""
    if request.param == "memory":
        return "memory://"
    url: str = request.getfixturevalue("redis_server").url
    return url


async def test_a_process_is_traced_and_judged_over_services_with_databases_of_their_own(
    sqlite_url: str, broker: str
) -> None:
    """They share a broker, and the tracker hears what each publishes; of others' consumers the graph is included."""
    shop, happenings = make_service("shop", sqlite_url, broker)
    shared = broker if broker != "memory://" else shop.broker
    payment, _ = make_service("payment", "memory://", shared)
    store, _ = make_service("stock", "memory://", shared)
    pay(payment)
    stock(store)
    ship(shop)
    declare(shop)
    for graph in (payment.flows.graph().as_dict(), store.flows.graph()):
        shop.flows.include(graph)
    async with payment.running(), store.running(), shop.running():
        (process,) = await place(shop, "o-1")
        await until_ended(shop, 1)
        trace = await shop.flows.trace(process)

    assert [one.code for one in shop.flows.check()] == ["unheard-event"]
    assert types(trace.roots[0]) == {
        "order.placed": [{"payment.charged": [{"stock.reserve": [{"stock.reserved": ["order.shipped"]}]}]}]
    }
    assert [(one.published_by, one.seen_at is not None) for one in trace.messages()] == [
        ("shop", True),
        ("payment/charge", True),
        ("payment/ask", False),
        ("stock/reserve", True),
        ("shop/ship", True),
    ]
    assert [one.subject for one in happenings.of(FlowDoubtful)] == ["stock.rejected"]


async def test_the_consumers_of_services_that_share_the_database_are_known_without_a_word(sqlite_url: str) -> None:
    """As they declare themselves when they start."""
    shop, _ = make_service("shop", sqlite_url)
    other, _ = make_service("stock", sqlite_url)
    stock(other)
    async with other.running(), shop:
        known = await shop.flows.known()

    assert [one.consumer for one in known.participants] == ["stock/reserve"]
    assert shop.flows.graph().participants == ()


@pytest.mark.parametrize("store_url", ONE_OF_EACH, indirect=True)
async def test_what_others_that_share_the_database_tell_each_other_is_seen_and_nobody_is_blamed_for_them(
    store_url: str,
) -> None:
    """The flow's own service knows nothing of the event between the two."""
    shop, happenings = make_service("shop", store_url)
    bank, _ = make_service("bank", store_url)
    courier, at_the_courier = make_service("courier", store_url)
    declare(shop)

    @bank.on(OrderPlaced, name="charge")
    async def charge(order: OrderPlaced, tx: AsyncConnection) -> PaymentCharged:
        return PaymentCharged(order.order_id)

    @courier.on(PaymentCharged, name="send", retry=Retry(attempts=1), when_dead="skip")
    async def send(payment: PaymentCharged, tx: AsyncConnection) -> OrderShipped:
        raise ValueError("the van has broken down")

    async with courier.running(), bank.running(), shop.running():
        (process,) = await place(shop, "o-1")
        await at_the_courier.until(MessageDead)
        await has_seen(shop, PaymentCharged)
        await let_time_pass(shop)
        (stuck,) = await happenings.until(FlowStuck)
        trace = await shop.flows.trace(process)

    assert stuck.culprit == "courier/send"
    assert stuck.missing[1].startswith("courier/send has not reacted to payment.charged")
    assert types(trace.roots[0]) == {"order.placed": ["payment.charged"]}


@pytest.mark.parametrize("store_url", ONE_OF_EACH, indirect=True)
async def test_in_whatever_order_and_however_often_messages_are_seen_the_process_has_ended(store_url: str) -> None:
    """Each is noted once, an end before its start too, and by two at once."""
    box, _ = make_box(store_url)
    declare(box, within=timedelta(milliseconds=1), react_within={})
    async with box:
        for process, order in (("p-1", "se"), ("p-2", "es"), ("p-3", "eses"), ("p-4", "sse"), ("p-5", "ees")):
            for sign in order:
                await see(box, process, sign)
        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(see(box, "p-6", "se"[number % 2]))
        stuck = await box.flows.stuck()
        trace = await box.flows.trace("p-3")
        async with box.transaction() as tx:
            states = (await tx.execute(select(flow_instances.c.state, flow_instances.c.started_at))).all()

    assert stuck == ()
    assert [state for state, _ in states] == ["ended"] * 6
    assert all(started_at is not None for _, started_at in states)
    assert len(list(trace.messages())) == 2


async def see(box: Pillarbox, process: str, sign: str) -> None:
    """Let the tracker see the start or the end of a process; it tries again when another transaction is in the way."""
    kind = "order.placed" if sign == "s" else "order.shipped"
    message = Message(
        id=f"{process}-{sign}",
        type=kind,
        destination="topic:order",
        key=None,
        content_type="application/json",
        headers={names.CORRELATION_ID: process},
        body=b"{}",
    )
    await box.store.run(note([message], box.flows.declared, box.store.flows))


async def test_a_process_that_somebody_has_seen_to_can_be_closed() -> None:
    box, happenings = make_service("shop", "memory://")
    declare(box, expects={PaymentCharged: (StockReserved, StockRejected)})
    pay_without_asking(box)
    async with box.running():
        (process,) = await place(box, "o-1")
        await has_seen(box, PaymentCharged)
        await let_time_pass(box)
        (stuck,) = await happenings.until(FlowStuck)
        await box.flows.close("shop/fulfilment", process, reason="sent by hand", by="ann")
        found = await box.flows.stuck()
        acts = await box.store.run(box.store.operators.acts.find(kind="flow"))
        with pytest.raises(NotFoundError):
            await box.flows.close("shop/fulfilment", process, reason="again", by="ann")
        with pytest.raises(ValueError, match="reason"):
            await box.flows.close("shop/fulfilment", process, reason=" ", by="ann")

    assert stuck.missing[1].startswith("stock.rejected or stock.reserved has not followed payment.charged")
    assert found == ()
    assert [(one.act.what, one.act.subject, one.act.reason) for one in acts] == [
        ("close", f"shop/fulfilment {process}", "sent by hand")
    ]


async def test_a_flow_that_can_only_go_round_does_not_start() -> None:
    box, _ = make_service("shop", "memory://")
    declare(box)
    pay_without_asking(box)

    @box.on(PaymentCharged, name="again")
    async def again(payment: PaymentCharged) -> OrderPlaced:
        return OrderPlaced(payment.order_id)

    with pytest.raises(InvalidSetupError, match="cause each other"):
        await box.run()


async def test_a_program_that_declares_no_flow_any_longer_starts_and_what_waited_for_its_tracker_is_gone(
    sqlite_url: str,
) -> None:
    before, _ = make_service("shop", sqlite_url)
    declare(before)
    pay_without_asking(before)
    async with before.running():
        pass
    async with before.running(consumers=False):
        await place(before, "o-1")
        await wait_until(lambda: _waits_for_both(before))
        async with before.transaction() as tx:  # its last process has ended an hour ago
            await tx.execute(update(members).values(expires_at=members.c.expires_at - micros(timedelta(hours=1))))
    after, happenings = make_service("shop", sqlite_url)
    pay_without_asking(after)

    async with after.running():
        await happenings.until(MessageHandled)
        known = await after.store.run(after.store.inspection.consumers())

    assert [one.identity for one in known] == ["shop/charge"]


async def _waits_for_both(box: Pillarbox) -> bool:
    return sum(one.queued for one in await box.store.run(box.store.inspection.consumers())) == 2


async def test_in_the_harness_time_passes_and_what_is_late_is_told_of() -> None:
    """No test waits for a deadline."""
    box, happenings = make_service("shop", "memory://")
    declare(box, react_within={})
    pay_without_asking(box)
    async with Harness(box) as harness:
        await harness.publish(OrderPlaced("o-1"))
        await harness.until_quiet()
        before = list(happenings.of(FlowStuck))
        await harness.advance(PATIENT + timedelta(seconds=1))
        (found,) = await harness.box.flows.stuck()

        assert [one.consumer for one in harness.handled] == ["shop/charge"]
    assert before == []
    assert len(happenings.of(FlowStuck)) == 1
    assert found.missing[0] == "order.shipped or order.cancelled has not come"
