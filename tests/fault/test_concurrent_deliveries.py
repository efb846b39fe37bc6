"""The same message in many hands at once, and messages that nobody can read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Unpack

import pytest
from msgspec import structs
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Context, Pillarbox, command
from pillarbox.consumer import Options
from pillarbox.idempotency.business_key import ROW_PREFIX
from pillarbox.message import Message
from pillarbox.relational.tables import inbox
from tests.fault.copying import CopyingBroker
from tests.fault.relay_scene import Notices
from tests.fault.story import SERVICE, TOPIC, Entered, Setting, count_effects, effects, prepare, stay_open
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox.relational import RelationalStore

HANDS = 8
WITHIN = timedelta(seconds=30)
COPY = Message(
    id="0198c0de-0000-7000-8000-000000000001",
    type="ledger.entered",
    destination=TOPIC,
    key="account-1",
    content_type="application/json",
    headers={"source": SERVICE, "schemaversion": "1"},
    body=b'{"account":"account-1","seq":1,"token":"entry-1"}',
)


def inside(box: Pillarbox, name: str, **options: Unpack[Options]) -> None:
    @box.on(Entered, name=name, **options)
    async def apply(entry: Entered, tx: AsyncConnection) -> None:
        await tx.execute(insert(effects), {"consumer": name, "token": entry.token, "account": entry.account})
        await stay_open(20)


def outside(box: Pillarbox, name: str, **options: Unpack[Options]) -> None:
    @box.on(Entered, name=name, outside=True, **options)
    async def apply(entry: Entered, ctx: Context) -> None:
        async with box.transaction() as somewhere_else:
            row = {"consumer": name, "token": entry.token, "account": entry.account}
            await somewhere_else.execute(insert(effects), row)
        await stay_open(20)


@pytest.mark.parametrize("declare", [inside, outside])
@pytest.mark.parametrize("setting", ["psycopg", "asyncpg", "sqlite", "mariadb"], indirect=True)
async def test_eight_deliveries_of_one_message_have_one_effect_for_each_consumer(
    setting: Setting, store: RelationalStore, declare: Callable[[Pillarbox, str], None]
) -> None:
    await prepare(setting, ())
    gate, notices = asyncio.Event(), Notices()
    broker = CopyingBroker([COPY], gate)

    async with AsyncExitStack() as stack:
        for _ in range(HANDS):
            box = Setting(store=setting.store, lease=timedelta(seconds=15)).box(broker)
            box.observe(notices)
            for consumer in ("post", "mirror"):
                declare(box, consumer)
            await stack.enter_async_context(box.running(relay=False))
        gate.set()
        await wait_until(lambda: len(broker.accepted) == HANDS * 2, WITHIN)

    kinds = [type(told).__name__ for told in notices.told]
    assert await count_effects(store) == 2
    assert kinds.count("MessageHandled") == 2
    assert kinds.count("DuplicateSuppressed") == (HANDS - 1) * 2
    assert "AttemptFailed" not in kinds
    assert "MessageDead" not in kinds


@pytest.mark.parametrize("declare", [inside, outside])
@pytest.mark.parametrize("setting", ["asyncpg", "sqlite", "mariadb"], indirect=True)
async def test_many_deliveries_of_many_messages_of_one_business_key_have_one_effect(
    setting: Setting, store: RelationalStore, declare: Callable[..., None]
) -> None:
    await prepare(setting, ())
    hands = messages = 4
    alike = [structs.replace(COPY, id=f"m{number}", key=f"account-{number}") for number in range(messages)]
    gate, notices = asyncio.Event(), Notices()
    broker = CopyingBroker(alike, gate)

    async with AsyncExitStack() as stack:
        for _ in range(hands):
            box = Setting(store=setting.store, lease=timedelta(seconds=15)).box(broker)
            box.observe(notices)
            declare(box, "post", dedupe_by="token")
            await stack.enter_async_context(box.running(relay=False))
        gate.set()
        await wait_until(lambda: len(broker.accepted) == hands * messages, WITHIN)

    kinds = [type(told).__name__ for told in notices.told]
    assert await count_effects(store) == kinds.count("MessageHandled") == 1
    assert kinds.count("DuplicateSuppressed") == hands * messages - 1
    assert "AttemptFailed" not in kinds
    async with store.engine.connect() as connection:
        rows = (await connection.execute(select(inbox.c.message_id))).scalars().all()
    assert {row for row in rows if not row.startswith(ROW_PREFIX)} == {one.id for one in alike}
    assert len(rows) == messages + 1


@command("ledger.audit", queue="audits", key="account")
@dataclass(frozen=True)
class Audit:
    """An account is to be looked at."""

    account: str


UNREADABLE = bytes(range(256)) + b"\xff\x00{"


@pytest.mark.parametrize("setting", ["psycopg", "sqlite"], indirect=True)
@pytest.mark.parametrize("type_", ["ledger.audit", "ledger.unheard_of"])
async def test_what_nobody_can_read_is_a_dead_letter_with_its_bytes(
    setting: Setting, box: Pillarbox, type_: str
) -> None:
    await prepare(setting, ())
    strange = Message(
        id="0198c0de-0000-7000-8000-000000000002",
        type=type_,
        destination="queue:audits",
        key="account-1",
        content_type="application/json",
        headers={"source": "elsewhere", "schemaversion": "1", "x-note": "naïve"},
        body=UNREADABLE,
    )
    broker = CopyingBroker([strange], asyncio.Event())
    broker.gate.set()
    reader = setting.box(broker)
    called: list[Audit] = []

    @reader.on(Audit, name="audit")
    async def audit(wanted: Audit, tx: AsyncConnection) -> None:
        called.append(wanted)

    async with reader.running(relay=False):
        await wait_until(lambda: broker.accepted, WITHIN)

    (letter,) = await box.dead_letters.list()
    assert letter.message == strange
    assert letter.message.body == UNREADABLE
    assert (letter.reason, letter.attempts, called) == ("undecodable", 0, [])
