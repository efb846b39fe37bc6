"""What must not be read in logs, in lists, and in what is stored about a failure."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Context, Retry, Settings
from pillarbox.observe import MessageDead
from pillarbox.telemetry import LoggingObserver
from tests.integration.boxes import OrderPlaced, make_box, publish

SOON = Retry(attempts=3, immediate=1, first=timedelta(milliseconds=20), factor=1)
SECRETS = ("canary-in-body", "canary-in-header", "canary-in-dsn")


async def test_secrets_do_not_reach_logs_nor_what_is_stored_about_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    box, happenings = make_box("memory://")
    box.observe(LoggingObserver())

    @box.on(OrderPlaced, name="handle", retry=SOON)
    async def handle(order: OrderPlaced, tx: AsyncConnection, ctx: Context) -> None:
        raise ConnectionError("postgresql://shop:canary-in-dsn@db/shop is away")

    with caplog.at_level(logging.DEBUG, logger="pillarbox"):
        async with box.running():
            async with box.transaction() as tx:
                await box.publish(
                    OrderPlaced("canary-in-body"), tx=tx, key="k", headers={"x-token": "canary-in-header"}
                )
            await happenings.until(MessageDead)
            (letter,) = await box.dead_letters.list()
            groups, stats = await box.dead_letters.groups(), await box.dead_letters.stats()
            acts = await box.dead_letters.acts(letter.id)

    told = [caplog.text, letter.error, letter.stack, str(letter.history), str(groups), str(stats), str(acts)]
    assert not [secret for secret in SECRETS for text in told if secret in text]
    assert "postgresql://shop:***@db/shop is away" in letter.error
    assert "canary-in-body" in letter.message.body.decode()


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
