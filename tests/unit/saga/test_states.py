"""What a saga is about may be a dataclass, a struct or a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pydantic
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Retry, Saga, SagaContext, Settings, StepFailed
from pillarbox.errors import InvalidMessageError
from pillarbox.message import Limits
from pillarbox.relational.saga_tables import saga_instances
from pillarbox.saga.journal import decode_journal
from tests.unit.saga.standing import stands

TWICE = Retry(attempts=2, immediate=1)
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@dataclass
class AsDataclass:
    order_id: str
    total: Decimal
    notes: list[str] = field(default_factory=list)
    paid_at: datetime | None = None
    shipped: bool = False


class AsStruct(msgspec.Struct):
    order_id: str
    total: Decimal
    notes: list[str] = msgspec.field(default_factory=list)
    paid_at: datetime | None = None
    shipped: bool = False


class AsModel(pydantic.BaseModel):
    order_id: str
    total: Decimal = pydantic.Field(ge=0)
    notes: list[str] = []
    paid_at: datetime | None = None
    shipped: bool = False


@pytest.mark.parametrize("kind", [AsDataclass, AsStruct, AsModel])
async def test_a_state_of_any_kind_goes_through_steps_of_every_kind(kind: Any) -> None:
    box, saga = Pillarbox("shop", store="memory://"), Saga("fulfil", state=kind)
    undone: list[object] = []

    @saga.step(parallel="both")
    async def pay(state: Any, tx: AsyncConnection) -> None:
        state.paid_at = NOON

    @saga.step(parallel="both")
    async def ship(state: Any) -> None:
        state.shipped = True

    @pay.compensate
    async def give_back(state: Any, tx: AsyncConnection) -> None:
        undone.append(state)

    @saga.step
    async def note(state: Any, tx: AsyncConnection) -> object:
        return kind(
            order_id=state.order_id,
            total=state.total * 2,
            notes=[*state.notes, "noted"],
            paid_at=state.paid_at,
            shipped=state.shipped,
        )

    @saga.step
    async def refuse(state: Any) -> None:
        raise StepFailed("that was all")

    box.include(saga)
    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start(saga, kind(order_id="o-1", total=Decimal("12.50")), saga_id="o-1", tx=tx)
        await stands(box, "fulfil", "o-1", "compensated")

    assert [type(one) for one in undone] == [kind]
    assert undone == [
        kind(order_id="o-1", total=Decimal("25.00"), notes=["noted"], paid_at=NOON, shipped=True),
    ]


async def test_a_model_that_a_step_left_invalid_is_that_step_s_failure() -> None:
    box, saga = Pillarbox("shop", store="memory://"), Saga("fulfil", state=AsModel)

    @saga.step(retry=TWICE)
    async def spend(state: AsModel, tx: AsyncConnection, ctx: SagaContext) -> None:
        state.total = Decimal(-1)

    @saga.step
    async def after(state: AsModel, tx: AsyncConnection) -> None:
        raise AssertionError("never reached")

    box.include(saga)
    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start(saga, AsModel(order_id="o-1", total=Decimal(1)), saga_id="o-1", tx=tx)
        found = await stands(box, "fulfil", "o-1", "compensated", "completed", "needs_attention")

    failed = decode_journal(found.journal).do["spend"].error
    assert found.summary.status == "compensated"
    assert "total" in failed


class Lean(msgspec.Struct, omit_defaults=True):
    order_id: str
    held: bool = False
    note: str | msgspec.UnsetType = msgspec.UNSET
    shipped: bool = False


async def test_a_parallel_step_that_sets_a_field_back_to_its_default_is_heeded() -> None:
    box, saga = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Lean)

    @saga.step(parallel="both")
    async def let_go(state: Lean, tx: AsyncConnection) -> None:
        state.held, state.note = False, msgspec.UNSET

    @saga.step(parallel="both")
    async def ship(state: Lean) -> None:
        state.shipped = True

    box.include(saga)
    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start(saga, Lean("o-1", held=True, note="wait"), saga_id="o-1", tx=tx)
        found = await stands(box, "fulfil", "o-1", "completed", "compensated", "needs_attention")

    assert found.summary.status == "completed"
    assert msgspec.json.decode(found.state, type=Lean) == Lean("o-1", shipped=True)


async def test_two_parallel_steps_clash_over_a_field_that_one_sets_back_to_its_default() -> None:
    box, saga = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Lean)

    @saga.step(parallel="both", retry=Retry(attempts=1))
    async def let_go(state: Lean, tx: AsyncConnection) -> None:
        state.note = msgspec.UNSET

    @saga.step(parallel="both", retry=Retry(attempts=1))
    async def write(state: Lean, tx: AsyncConnection) -> None:
        state.note = "shipped"

    box.include(saga)
    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start(saga, Lean("o-1", note="wait"), saga_id="o-1", tx=tx)
        found = await stands(box, "fulfil", "o-1", "completed", "compensated", "needs_attention")

    assert found.summary.status == "compensated"
    assert "two parallel steps change note" in decode_journal(found.journal).do["write"].error


@dataclass
class Tagged:
    order_id: str
    shelves: set[int] = field(default_factory=set)
    weight: int = 0
    notes: tuple[str, ...] = ()


async def weighed_and_noted(box: Pillarbox, order: str, written: str) -> tuple[str, Tagged]:
    """Run two parallel steps that change a field each on the state ``written``; return how it ended, and its state."""
    saga = Saga("fulfil", state=Tagged)

    @saga.step(parallel="both", retry=Retry(attempts=1))
    async def weigh(state: Tagged, tx: AsyncConnection) -> None:
        state.weight = 7

    @saga.step(parallel="both", retry=Retry(attempts=1))
    async def note(state: Tagged) -> None:
        state.notes = ("packed",)

    box.include(saga)
    async with box:
        async with box.transaction() as tx:
            await box.sagas.start(saga, Tagged(order), saga_id=order, tx=tx)
            await tx.execute(update(saga_instances).values(data=written))
        async with box.running():
            found = await stands(box, "fulfil", order, "completed", "compensated", "needs_attention")
    return found.summary.status, msgspec.json.decode(found.state, type=Tagged)


async def test_a_set_that_another_process_wrote_in_another_order_is_none_that_parallel_steps_change() -> None:
    box = Pillarbox("shop", store="memory://")

    status, state = await weighed_and_noted(box, "o-1", '{"order_id":"o-1","shelves":[1,64],"weight":0,"notes":[]}')

    assert status == "completed"
    assert state == Tagged("o-1", {1, 64}, 7, ("packed",))


async def test_a_field_that_the_release_before_did_not_know_is_none_that_parallel_steps_change() -> None:
    box = Pillarbox("shop", store="memory://")

    status, state = await weighed_and_noted(box, "o-1", '{"order_id":"o-1","weight":0}')

    assert status == "completed"
    assert state == Tagged("o-1", set(), 7, ("packed",))


@pytest.mark.parametrize(("notes", "why"), [(["n" * 2_000], "bytes long"), ([object()], "object")])
async def test_a_state_that_cannot_be_kept_is_said_to_be_a_state(notes: list[Any], why: str) -> None:
    small = Settings(limits=Limits(max_body_bytes=1_000))
    box, saga = Pillarbox("shop", store="memory://", settings=small), Saga("fulfil", state=AsDataclass)

    @saga.step
    async def pay(state: AsDataclass, tx: AsyncConnection) -> None: ...

    box.include(saga)
    async with box:
        async with box.transaction() as tx:
            with pytest.raises(InvalidMessageError, match=f"a state 'AsDataclass' cannot be kept: .*{why}"):
                await box.sagas.start(saga, AsDataclass("o-1", Decimal(1), notes), saga_id="o-1", tx=tx)

        assert await box.sagas.list() == ()
