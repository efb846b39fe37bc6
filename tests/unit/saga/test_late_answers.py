"""A reply that comes when its step was given up: the history tells which one it was, and not that it was done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace
from sqlalchemy import update

from pillarbox import Pillarbox, Saga, StepFailed, command, event
from pillarbox.relational.saga_tables import saga_instances
from pillarbox.saga.journal import (
    ActState,
    Arrived,
    Direction,
    Journal,
    Progress,
    SagaStatus,
    decode_journal,
    encode_journal,
)
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class Order:
    order_id: str


@command("late.reserve", queue="late", key="order_id")
@dataclass(frozen=True)
class Reserve:
    order_id: str


@event("late.reserved", key="order_id")
@dataclass(frozen=True)
class Reserved:
    order_id: str


@event("late.rejected", key="order_id")
@dataclass(frozen=True)
class Rejected:
    order_id: str


def given_up(journal: Journal, reply: str) -> Journal:
    """Stop past the pivot, where nobody knows what became of a command; now ``reply`` has come."""
    arrived = Arrived(
        step="reserve",
        direction=Direction.DO,
        attempt=1,
        type=reply,
        version=1,
        content_type="application/json",
        body='{"order_id":"o-1"}',
    )
    unknown = Progress(state=ActState.UNKNOWN, attempts=1, place=1)
    stands = SagaStatus.NEEDS_ATTENTION
    return replace(journal, status=stands, beyond=True, do={"reserve": unknown}, places=1, arrived=(arrived,))


@pytest.mark.parametrize(
    ("reply", "told"),
    [("late.rejected", [("answered late", "late.rejected")]), ("late.reserved", [("done late", "")])],
)
async def test_a_late_refusal_is_not_told_as_done(reply: str, told: Sequence[tuple[str, str]]) -> None:
    box, fulfil = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order)

    @fulfil.request(replies=(Reserved, Rejected))
    def reserve(state: Order) -> Reserve:
        return Reserve(state.order_id)

    @reserve.on(Rejected)
    def rejected(state: Order, reply: Rejected) -> None:
        raise StepFailed("sold out")

    box.include(fulfil)
    async with box:
        async with box.transaction() as tx:
            await box.sagas.start(fulfil, Order("o-1"), saga_id="o-1", tx=tx)
            journal = decode_journal((await tx.execute(saga_instances.select())).one().journal)
            noted = encode_journal(given_up(journal, reply)).decode()
            await tx.execute(update(saga_instances).values(journal=noted, state="needs_attention"))
        async with box.running():

            async def is_looked_at() -> Journal | None:
                found = decode_journal((await box.sagas.get("o-1")).journal)
                return None if found.arrived else found

            found = await wait_until(is_looked_at)
    assert found is not None
    assert [(one.what, one.error) for one in found.history] == told
