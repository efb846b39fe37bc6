"""Events of others whose envelope is odd: they are handled or become dead letters, and stop nothing behind them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Retry
from pillarbox.brokers.nats.connection import NatsConnection
from pillarbox.brokers.nats.layout import subject_of
from pillarbox.testing.contracts.broker_harness import new_queue
from tests.integration.boxes import ChargePayment, create_tables, make_box, note, noted
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.servers import NatsServer

EVENT = {"specversion": "1.0", "id": "e-1", "source": "/elsewhere", "type": "payment.charge"}
HEADERS = {**{f"ce-{name}": value for name, value in EVENT.items()}, "content-type": "application/json"}


@pytest.mark.parametrize(
    "odd",
    [
        {"ce-type": "t" * 201},
        {"content-type": f"application/json; profile={'p' * 100}"},
        {"content-type": f"application/x-{'p' * 100}"},
        {"content-type": ""},
        {"ce-hop": "x"},
        {"ce-hop": "9" * 30},
        {"ce-hop": "9" * 5000},
        {"ce-schemaversion": "9" * 30},
        {"ce-schemaversion": "-1"},
        {"ce-sequence": "9" * 30},
        {"ce-causes": "x y z"},
        {"ce-correlationid": "c" * 5000},
        {"ce-replyto": "nonsense"},
        {"ce-subject": "s" * 601},
        {"ce-id": "i" * 201},
    ],
    ids=lambda odd: f"{next(iter(odd))}={next(iter(odd.values()))[:20]}",
)
async def test_an_odd_event_is_handled_or_dead_and_stops_nothing(
    nats_server: NatsServer, migrated_postgresql_url: str, odd: dict[str, str]
) -> None:
    box, happenings = make_box(migrated_postgresql_url, broker=nats_server.url)
    queue = new_queue()
    subject = subject_of(queue, 3)
    retry = Retry(attempts=2, first=timedelta(milliseconds=10))

    @box.on(ChargePayment, name="charge", channel=queue, retry=retry)
    async def charge(payment: ChargePayment, tx: AsyncConnection) -> None:
        if payment.order_id == "odd":
            raise ValueError("it is odd")
        await note(tx, payment.order_id)

    nats = NatsConnection([nats_server.url])

    async def is_done() -> bool:
        return await noted(box) == ["next"] and len(await box.dead_letters.list()) == 1

    async with box.running():
        await create_tables(box)
        stream = (await nats.link()).client.jetstream()
        await stream.publish(subject, b'{"order_id": "odd"}', headers={**HEADERS, **odd})
        await stream.publish(subject, b'{"order_id": "next"}', headers={**HEADERS, "ce-id": "e-2"})
        try:
            await wait_until(is_done, timedelta(seconds=10), what="a dead letter, and what came behind it")
        except AssertionError as error:
            error.add_note(f"the last events: {happenings.events[-4:]}")
            raise
    await nats.close()
