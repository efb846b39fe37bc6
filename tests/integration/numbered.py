"""Numbered messages in tests: a type that bears numbers, and messages as a producer would have published them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import BySequence, Context, GapPolicy, Pillarbox, Retry, Settings, event
from pillarbox.message import Message, Number
from tests.integration.boxes import Happenings, create_tables, make_box, note, noted
from tests.waiting import wait_until

CHANNEL, KEY, CONSUMER = "topic:meter", "m-1", "shop/post"
EPOCH = 7
PATIENT = BySequence(gap=GapPolicy(wait=timedelta(minutes=5)), start="first")


@event("meter.read", key="meter", numbered=True)
@dataclass(frozen=True)
class MeterRead:
    """A reading."""

    meter: str
    value: int


def reading(number: int, *, key: str = KEY, epoch: int = EPOCH, identity: str = "") -> Message:
    """Return the message with a number, whose value is that number."""
    return Message(
        id=identity or f"{key}-{epoch}-{number}",
        type="meter.read",
        destination=CHANNEL,
        key=key,
        content_type="application/json",
        headers={"source": "shop", "schemaversion": "1", **Number(epoch, number).headers},
        body=json.dumps({"meter": key, "value": number}).encode(),
    )


def box_of_readings(
    url: str,
    rule: BySequence = PATIENT,
    *,
    fails: dict[int, int] | None = None,
    retry: Retry | None = None,
    settings: Settings | None = None,
    **options: object,
) -> tuple[Pillarbox, Happenings]:
    """Return a box whose consumer notes each reading; ``fails`` says how often the handler of a value fails."""
    box, happenings = make_box(url, settings=settings) if settings is not None else make_box(url)
    failing = dict(fails or {})

    @box.on(MeterRead, name="post", ordering=rule, retry=retry or Retry(), **options)  # type: ignore[arg-type]
    async def post(read: MeterRead, tx: AsyncConnection, ctx: Context) -> None:
        if failing.get(read.value, 0) > 0:
            failing[read.value] -= 1
            raise RuntimeError(f"a bad day for {read.value}")
        await note(tx, f"{read.meter}/{read.value}")

    return box, happenings


async def deliver(box: Pillarbox, messages: Sequence[Message]) -> None:
    """Put messages into the consumer's queue in the order given, one transaction each hundred."""
    for start in range(0, len(messages), 100):
        await box.store.run(box.store.queue.enqueue(messages[start : start + 100]))


async def until_noted(box: Pillarbox, count: int, within: timedelta = timedelta(seconds=20)) -> list[str]:
    """Wait until ``count`` readings were handled; return all that were."""

    async def enough() -> bool:
        return len(await noted(box)) >= count

    await wait_until(enough, within)
    return await noted(box)


__all__ = [
    "CHANNEL",
    "CONSUMER",
    "KEY",
    "PATIENT",
    "MeterRead",
    "box_of_readings",
    "create_tables",
    "deliver",
    "reading",
    "until_noted",
]
