"""What must not be read in logs, events, lists, and in what is stored about a failure."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

import pytest
from click.testing import CliRunner
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Causal, Cause, Context, Retry, Settings, event
from pillarbox.cli import commands
from pillarbox.message import Message
from pillarbox.observe import MessageDead
from pillarbox.telemetry import LoggingObserver
from tests.integration.boxes import OrderPlaced, make_box, publish

SOON = Retry(attempts=3, immediate=1, first=timedelta(milliseconds=20), factor=1)
SECRETS = ("canary-in-body", "canary-in-header", "canary-in-dsn")
LISTINGS = (
    "dead-letters list",
    "dead-letters list --state any",
    "dead-letters groups",
    "dead-letters stats",
    "dead-letters runs",
    "dead-letters show 1",
    "dead-letters show 2",
    "held list",
    "outbox state",
    "outbox parked",
    "inbox stats",
    "calls list",
    "gaps list",
    "consumers",
    "health",
    "doctor",
)


class Colour(StrEnum):
    """Those that can be read."""

    RED = "red"


@event("thing.painted", key="thing")
@dataclass(frozen=True)
class ThingPainted:
    """Whoever cannot read its colour quotes it."""

    thing: str
    colour: Colour


UNREADABLE = Message(
    id="m1",
    type="thing.painted",
    destination="topic:thing",
    key="k",
    content_type="application/json",
    headers={"source": "shop", "x-token": SECRETS[1]},
    body=f'{{"thing": "k", "colour": "{SECRETS[0]}"}}'.encode(),
)


async def test_secrets_reach_no_log_no_event_no_list_and_nothing_that_is_stored_about_a_failure(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    box, happenings = make_box(sqlite_url)
    box.observe(LoggingObserver())

    @box.on(OrderPlaced, name="handle", retry=SOON)
    async def handle(order: OrderPlaced, tx: AsyncConnection, ctx: Context) -> None:
        raise ConnectionError(f"postgresql://shop:{SECRETS[2]}@db/shop is away")

    @box.on(ThingPainted, name="paint")
    async def paint(painted: ThingPainted, tx: AsyncConnection) -> None: ...

    with caplog.at_level(logging.DEBUG, logger="pillarbox"):
        async with box.running():
            async with box.transaction() as tx:
                for number in range(2):
                    order = OrderPlaced(SECRETS[0], number)
                    await box.publish(order, tx=tx, key="k", headers={"x-token": SECRETS[1]})
            await box.broker.sender().send([UNREADABLE])
            await happenings.until(MessageDead, 2)
            letters = await box.dead_letters.list()
            groups, stats = await box.dead_letters.groups(), await box.dead_letters.stats()
            acts = [await box.dead_letters.acts(letter.id) for letter in letters]
    listed = await asyncio.to_thread(_list_everything, sqlite_url)

    stored = [f"{letter.error} {letter.stack} {letter.history}" for letter in letters]
    told = [caplog.text, str(happenings.events), *stored, str(groups), str(stats), str(acts), *listed]
    assert not [(secret, text) for secret in SECRETS for text in told if secret in text]
    assert {letter.reason for letter in letters} == {"exhausted", "undecodable"}
    assert any("postgresql://shop:***@db/shop is away" in letter.error for letter in letters)
    assert all(SECRETS[0] in letter.message.body.decode() for letter in letters)


def _list_everything(url: str) -> list[str]:
    """Return what the command line shows that is not asked for what messages carry."""
    told: list[str] = []
    for listing in LISTINGS:
        for form in ([], ["--json"]):
            done = CliRunner().invoke(commands, [*listing.split(), *form, "--store", url], prog_name="pillarbox")
            assert done.exit_code == 0 or listing in {"health", "doctor"}, done.output
            told.append(done.output)
    return told


async def test_a_hook_redacts_what_is_stored_about_a_failure() -> None:
    settings = Settings(redact=lambda text: text.replace("Ann", "(a person)"), migrate_on_open=True)
    box, happenings = make_box("memory://", settings=settings)

    @box.on(OrderPlaced, name="handle", retry=SOON)
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        raise ConnectionError("no address of Ann")

    async with box.running():
        await publish(box, OrderPlaced("a"))
        await happenings.until(MessageDead)
        (letter,) = await box.dead_letters.list()
        (group,) = await box.dead_letters.groups()

    assert {one.error for one in letter.history} == {"no address of (a person)"} == {group.example}
    assert "Ann" not in letter.stack.partition("def handle")[0].replace('"no address of Ann"', "")


async def test_the_hook_also_sees_what_is_given_up_before_its_handler_is_called() -> None:
    settings = Settings(redact=lambda text: text.replace("Ann", "(a person)"), migrate_on_open=True)
    box, happenings = make_box("memory://", settings=settings)
    at_once = Causal(wait=timedelta(milliseconds=1), when_missing="dead")

    @box.on(OrderPlaced, name="handle", ordering=at_once)
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None: ...

    async with box.running():
        async with box.transaction() as tx:
            await box.publish(OrderPlaced("a"), tx=tx, after=[Cause("order-of-Ann", "order.placed", "topic:order")])
        await happenings.until(MessageDead)
        (letter,) = await box.dead_letters.list()

    assert letter.reason == "cause-missing"
    assert "order-of-(a person)" in letter.error
    assert "Ann" not in f"{letter.error} {letter.stack}"
