"""Numbers given in the caller's own transaction, on every kind of connection, and to records without a table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pillarbox import Pillarbox, event
from pillarbox.errors import InvalidMessageError
from pillarbox.message import number_of
from pillarbox.outbox import PublishOptions
from tests.integration.boxes import SETTINGS
from tests.integration.callers import ON_POSTGRESQL, ON_SQLITE, Caller
from tests.integration.log_boxes import LogScene
from tests.integration.numbered import MeterRead
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox.message import Message
    from tests.servers import PostgresServer

KINDS = [*(f"sqlite:{name}" for name in ON_SQLITE), *(f"postgresql:{name}" for name in ON_POSTGRESQL)]


@event("sum.read", numbered=True)
@dataclass(frozen=True)
class Keyless:
    """A numbered type whose key is given at publish, if at all."""

    value: int


@pytest.fixture(params=KINDS)
async def placed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, Caller]]:
    """A caller's connection to a database that has the tables, and the database's URL."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    database, name = request.param.split(":")
    url: str = request.getfixturevalue("postgresql_module_url" if database == "postgresql" else "sqlite_url")
    box = Pillarbox("shop", store=url, settings=SETTINGS)
    await box.migrate()
    async with box.store.begin() as tx:
        await tx.connection.exec_driver_sql("DELETE FROM pillarbox_outbox")
        await tx.connection.exec_driver_sql("DELETE FROM pillarbox_key_numbers")
    await box.store.close()
    async with (ON_SQLITE if database == "sqlite" else ON_POSTGRESQL)[name](url) as opened:
        yield url, opened


async def test_every_kind_of_connection_gives_numbers(placed: tuple[str, Caller]) -> None:
    url, caller = placed
    box = Pillarbox("shop", store=url, settings=SETTINGS)

    for count in (1, 3):
        await caller.own("begin")
        records = [box._outbox.prepare(MeterRead(f"m-{at % 2}", at)) for at in range(count)]
        await caller.run(box._outbox.append(records))
        await caller.own("commit")

    async with box.store.begin() as tx:
        rows = (
            await tx.connection.exec_driver_sql(
                "SELECT message_key, key_sequence FROM pillarbox_outbox ORDER BY position"
            )
        ).all()
    await box.store.close()
    assert [tuple(row) for row in rows] == [("m-0", 1), ("m-0", 2), ("m-1", 1), ("m-0", 3)]


async def test_a_numbered_message_has_a_key_and_no_delay() -> None:
    box = Pillarbox("shop", store="memory://", settings=SETTINGS)

    with pytest.raises(InvalidMessageError, match="leave delay= out"):
        box._outbox.prepare(MeterRead("m-1", 1), options=PublishOptions(delay=timedelta(hours=1)))
    with pytest.raises(InvalidMessageError, match="numbers are counted by key"):
        box._outbox.prepare(Keyless(1))


async def test_records_without_a_table_bear_numbers_too(postgresql_server: PostgresServer, postgresql_url: str) -> None:
    scene = LogScene(postgresql_server, postgresql_url, form="log")
    async with scene.relaying() as box:
        await scene.until_read()
        for _ in range(2):
            async with box.transaction() as tx:
                await box.publish_all([MeterRead("m-1", 1), MeterRead("m-2", 2), MeterRead("m-1", 3)], tx=tx)
        await wait_until(lambda: len(scene.broker.taken) >= 6)
    await scene.close()

    taken: list[Message] = scene.broker.taken
    assert [number.number for one in taken if one.key == "m-1" and (number := number_of(one))] == [1, 2, 3, 4]
    assert [number.number for one in taken if one.key == "m-2" and (number := number_of(one))] == [1, 2]
