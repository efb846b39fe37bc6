"""Headers of others whose names a broker cannot carry, on messages that a route forwards."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pillarbox import RecipientList
from pillarbox.brokers.nats.connection import NatsConnection
from pillarbox.brokers.nats.layout import subject_of
from pillarbox.observe import MessageHandled, RecordParked
from pillarbox.testing.contracts.broker_harness import new_queue
from tests.integration.boxes import ChargePayment, make_box

if TYPE_CHECKING:
    from tests.servers import NatsServer

EVENT = {"specversion": "1.0", "id": "e-1", "source": "/elsewhere", "type": "payment.charge", "data": {"order_id": "o"}}


@pytest.mark.parametrize("name", ["naïve", "x: y\r\nNats-Rollup"])
async def test_a_header_that_nats_cannot_carry_parks_its_copy_and_stops_nothing(
    nats_server: NatsServer, sqlite_url: str, name: str
) -> None:
    box, happenings = make_box(sqlite_url, broker=nats_server.url)
    source, copies = new_queue(), new_queue()
    box.include(RecipientList("copies", copies, source=source))

    @box.on(ChargePayment, name="charge", channel=copies, idempotency="natural")
    async def charge(payment: ChargePayment) -> None:
        pass

    nats = NatsConnection([nats_server.url])
    async with box.running():
        stream = (await nats.link()).client.jetstream()
        for identity, odd in (("e-1", {name: "all"}), ("e-2", {})):
            await stream.publish(
                subject_of(source, 3),
                json.dumps({**EVENT, "id": identity, **odd}).encode(),
                headers={"content-type": "application/cloudevents+json"},
            )
        await happenings.until(MessageHandled, consumer="charge")
        (parked,) = await happenings.until(RecordParked)
    await nats.close()

    assert "cannot carry a header" in parked.reason
