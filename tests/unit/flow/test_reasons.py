"""Why something did not come, where the database knows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from pillarbox.channel import Subscription
from pillarbox.deadletter import Burial
from pillarbox.flow import Missing
from pillarbox.flow.policy import judge
from pillarbox.flow.reasons import Reasons
from pillarbox.message import Message
from pillarbox.message import headers as names
from pillarbox.stores.sqlite import sqlite_store
from tests.unit.flow.shop import CHARGED, MINUTE, NOW, PLACED, RESERVE, WHOLE, flow, message
from tests.unit.flow.test_policy import BEGUN

if TYPE_CHECKING:
    from pillarbox.relational import RelationalStore

FIRST = message(PLACED, "m-1")
PAID = message(CHARGED, "m-2", FIRST)


def explained(
    missing: Sequence[Missing], *programs: object, dead: Sequence[tuple[str, Message]] = (), looks_aside: bool = True
) -> list[tuple[str, str]]:
    """Who is to be looked at, and why, after letters were buried and ids processed."""

    async def work() -> list[tuple[str, str]]:
        store: RelationalStore = sqlite_store(make_url("sqlite://"))
        await store.migrate()
        consumers = ["shop/advance", "stock/take"]
        for name in consumers:
            await store.run(store.consumers.enlist(name, [Subscription(consumer=name, channels=("topic:x",))]))
        for consumer, letter in dead:
            await store.run(store.dead_letters.bury(consumer, [burial(letter)]))
        if "handled" in programs:
            await store.run(store.inbox.record("shop/advance", ["m-2"]))
        found = await Reasons(store.flows.journal, store).explain(missing, [FIRST, PAID], looks_aside=looks_aside)
        await store.close()
        return [(one.culprit, one.because) for one in found]

    return asyncio.run(work())


def burial(letter: Message) -> Burial:
    return Burial(
        hold_key=f"m:{letter.id}",
        message=letter,
        reason="permanent",
        attempts=1,
        history=(),
        stack="",
        fingerprint="f",
    )


def letter(identity: str, kind: str, destination: str, cause: str = "m-1", process: str = "m-1") -> Message:
    return Message(
        id=identity,
        type=kind,
        destination=destination,
        key="o-1",
        content_type="application/json",
        headers={names.CORRELATION_ID: process, names.CAUSATION_ID: cause},
        body=b"{}",
    )


@pytest.fixture
def missing() -> Sequence[Missing]:
    """What is missing when nothing has come of a payment: the end, and a reaction by way of a command."""
    return judge(BEGUN, [FIRST, PAID], flow(), WHOLE, NOW + 10 * MINUTE).missing


def test_nothing_is_said_where_nothing_is_known(missing: Sequence[Missing]) -> None:
    assert explained(missing) == [("", ""), ("stock/take", "")]


def test_a_command_that_is_dead_is_the_reason(missing: Sequence[Missing]) -> None:
    command = letter("c-1", RESERVE, "queue:stock", cause="m-2")

    assert explained(missing, "handled", dead=[("stock/take", command)])[1] == (
        "stock/take",
        "that is dead there: pillarbox dead-letters list --consumer stock/take",
    )


def test_where_that_would_be_much_it_is_not_looked_for(missing: Sequence[Missing]) -> None:
    command = letter("c-1", RESERVE, "queue:stock", cause="m-2")

    assert explained(missing, dead=[("stock/take", command)], looks_aside=False)[1] == ("stock/take", "")


def test_a_command_of_another_process_is_none(missing: Sequence[Missing]) -> None:
    command = letter("c-1", RESERVE, "queue:stock", cause="m-9", process="m-9")

    assert explained(missing, dead=[("stock/take", command)])[1] == ("stock/take", "")


def test_who_has_not_even_sent_the_command_is_to_be_looked_at(missing: Sequence[Missing]) -> None:
    event = letter("m-2", CHARGED, "topic:payment")

    assert explained(missing, dead=[("shop/advance", event)])[1] == (
        "shop/advance",
        "that is dead there: pillarbox dead-letters list --consumer shop/advance",
    )


def test_who_has_handled_it_and_published_nothing_is_told_of(missing: Sequence[Missing]) -> None:
    assert explained(missing, "handled")[1] == ("stock/take", "it has handled that, and nothing came of it")
