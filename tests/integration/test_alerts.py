"""Alerts of a box at work: after the fact, without delay for anybody, without what messages hold."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Alert, AlertRules, Retry
from pillarbox.idempotency import InboxSettings
from pillarbox.observe import MessageDead, MessageHandled
from tests.integration.boxes import SETTINGS, OrderPlaced, StockReserved, make_box, publish
from tests.waiting import wait_until

ONCE = Retry(attempts=1)
REFUSE_TWO_COMMITS = (
    "CREATE SEQUENCE commits",  # which no rollback takes back
    """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF nextval('commits') <= 2 THEN RAISE 'refused' USING ERRCODE = '40001'; END IF;
        RETURN NULL;
    END $$""",
    """CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON pillarbox_dead_letters
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()""",
)


class Inbox:
    """A target that keeps what it is told."""

    def __init__(self) -> None:
        self.alerts: list[Alert] = []

    async def __call__(self, alert: Alert) -> None:
        self.alerts.append(alert)

    async def until(self, rule: str) -> Alert:
        """Wait for an alert."""
        return await wait_until(lambda: next((one for one in self.alerts if one.rule == rule), None))


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
async def test_a_target_that_hangs_delays_nothing_and_what_messages_hold_is_not_told(store_url: str) -> None:
    box, happenings = make_box(store_url)
    inbox = Inbox()
    hanging = asyncio.Event()

    async def hang(alert: Alert) -> None:
        hanging.set()
        await asyncio.Event().wait()

    @box.on(OrderPlaced, name="handle", retry=ONCE)
    async def handle(order: OrderPlaced) -> None:
        if order.number == 0:
            raise ValueError(f"the secret of {order.order_id}")

    for target in (hang, inbox):
        box.alert_to(target)
    async with box.running():
        await publish(box, OrderPlaced("customer-7", 0))
        alert = await inbox.until("dead-letter")
        held = await inbox.until("held-key")
        await hanging.wait()
        await publish(box, *(OrderPlaced(str(number), 1) for number in range(10)))
        await happenings.until(MessageHandled, 10)

    (event,) = happenings.of(MessageDead)
    assert alert.subject == f"shop/handle {event.group}"
    assert alert.facts["message_id"] == event.message_id
    assert held.subject == "shop/handle"
    assert "secret" not in repr(alert)
    assert "customer-7" not in repr(alert)


@pytest.mark.server
@pytest.mark.parametrize("store_url", ["postgresql+asyncpg"], indirect=True)
@pytest.mark.parametrize("in_a_transaction", [True, False])
async def test_a_dead_letter_whose_commit_fails_is_told_to_nobody_until_it_is_stored(
    store_url: str, *, in_a_transaction: bool
) -> None:
    box, happenings = make_box(store_url)
    told = list[tuple[str, int, int]]()

    async def look(alert: Alert) -> None:
        async with box.transaction() as tx:
            commits = (await tx.execute(text("SELECT last_value FROM commits"))).scalar_one()
        told.append((alert.rule, commits, len(await box.dead_letters.list())))

    async def within(order: OrderPlaced, tx: AsyncConnection) -> None:
        raise ValueError("unfit")

    async def without(order: OrderPlaced) -> None:
        raise ValueError("unfit")

    box.on(OrderPlaced, name="handle", retry=ONCE)(within if in_a_transaction else without)

    box.alert_to(look, rules=AlertRules(held_key=False))
    async with box.running():
        async with box.transaction() as tx:
            for statement in REFUSE_TWO_COMMITS:
                await tx.execute(text(statement))
        await publish(box, OrderPlaced("o-1"))
        await happenings.until(MessageDead)
        await wait_until(lambda: told)

    assert told == [("dead-letter", 3, 1)], "two commits were refused, and nobody was told of them"
    assert len(happenings.of(MessageDead)) == 1


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
async def test_a_message_that_waits_for_long_is_told_of(store_url: str) -> None:
    box, _ = make_box(store_url)
    inbox = Inbox()
    box.alert_to(inbox, rules=AlertRules(oldest_pending=timedelta(0), watch_every=timedelta(milliseconds=20)))
    async with box.running(relay=False):
        await publish(box, StockReserved("o-1"))
        alert = await inbox.until("oldest-pending")

    assert alert.subject == "outbox"


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_a_letter_is_told_of_before_only_force_replays_it(store_url: str) -> None:
    """By the settings of the box that alerts; health tells it to those who ask."""
    within = InboxSettings(replay_within=timedelta(milliseconds=200))
    box, happenings = make_box(store_url, settings=replace(SETTINGS, inbox=within))
    patient, _ = make_box(store_url)
    inbox = Inbox()
    box.alert_to(inbox, rules=AlertRules(watch_every=timedelta(milliseconds=20)))

    @box.on(OrderPlaced, name="handle", retry=ONCE)
    async def handle(order: OrderPlaced) -> None:
        raise ValueError("unfit")

    async with box.running():
        await publish(box, OrderPlaced("o-1"))
        await happenings.until(MessageDead)
        alert = await inbox.until("aging-letters")
        problems = [problem.what for problem in (await box.health()).problems]
        others = (await patient.health()).vitals

    assert (alert.subject, alert.facts["letters"]) == ("shop/handle", 1)
    assert any(problem.startswith("1 dead letters of shop/handle are old") for problem in problems)
    assert (others.dead, others.aging_letters) == (1, ())


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_a_cause_is_told_of_once_and_again_when_it_comes_back_from_resolved_whichever_process_meets_it(
    store_url: str,
) -> None:
    async def told_of(number: int) -> list[str]:
        box, happenings = make_box(store_url)
        inbox = Inbox()
        box.alert_to(inbox, rules=AlertRules(held_key=False))

        @box.on(OrderPlaced, name="handle", retry=ONCE)
        async def handle(order: OrderPlaced) -> None:
            raise ValueError("unfit")

        async with box.running():
            await publish(box, OrderPlaced(f"o-{number}"), OrderPlaced(f"p-{number}"))
            (event, _) = await happenings.until(MessageDead, 2)
            if number == 1:
                await box.dead_letters.resolve_group(event.group, by="ann")
        return [one.rule for one in inbox.alerts]

    assert [await told_of(number) for number in range(4)] == [["dead-letter"], [], ["dead-letter-again"], []]
