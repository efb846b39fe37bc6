"""Children: whose they are, and what becomes of one that is past its pivot when its parent is undone."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Saga, StepFailed
from pillarbox.relational.saga_tables import saga_instances
from pillarbox.saga.journal import decode_journal
from tests.unit.saga.standing import stands


@dataclass
class Order:
    order_id: str


def delivering(*, thanks: bool) -> tuple[Pillarbox, Saga[Order], list[str]]:
    """A saga whose child has a pivot, and what happens to them."""
    box = Pillarbox("shop", store="memory://")
    child, saga = Saga("delivery", state=Order), Saga("fulfil", state=Order)
    happened: list[str] = []

    @child.step
    async def pack(state: Order, tx: AsyncConnection) -> None:
        happened.append("pack")

    @pack.compensate
    async def unpack(state: Order, tx: AsyncConnection) -> None:
        happened.append("unpack")

    @child.step(pivot=True)
    async def send_off(state: Order, tx: AsyncConnection) -> None:
        happened.append("send off")

    @saga.step
    async def charge(state: Order, tx: AsyncConnection) -> None:
        happened.append("charge")

    @charge.compensate
    async def give_back(state: Order, tx: AsyncConnection) -> None:
        happened.append("give back")

    @saga.child(child)
    def deliver(state: Order) -> Order:
        return Order(state.order_id)

    @saga.step
    async def thank(state: Order) -> None:
        if not thanks:
            raise StepFailed("nobody there")

    box.include(saga)
    box.include(child)
    return box, saga, happened


async def test_a_child_past_its_pivot_is_not_undone_and_its_parent_says_so() -> None:
    box, saga, happened = delivering(thanks=False)

    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start(saga, Order("o-1"), saga_id="o-1", tx=tx)
        parent = await stands(box, "fulfil", "o-1", "needs_attention", "compensated")
        delivered = await box.sagas.get("o-1.fulfil.deliver", saga="delivery")

        at_rest = list(happened)
        await box.sagas.compensate("o-1.fulfil.deliver", saga="delivery", reason="it came back by post", by="ops")
        await stands(box, "delivery", "o-1.fulfil.deliver", "compensated")
        await stands(box, "fulfil", "o-1", "compensated")

    assert delivered.summary.status == "completed", "past its pivot nothing is undone"
    assert parent.summary.status == "needs_attention", "what could not be undone is for people to see"
    assert decode_journal(parent.journal).undo["deliver"].error == "the child was completed: it is past its pivot"
    assert at_rest == ["charge", "pack", "send off", "give back"]
    assert happened == [*at_rest, "unpack"]


async def test_an_operator_who_has_a_completed_saga_undone_has_its_child_undone_past_the_pivot() -> None:
    box, saga, happened = delivering(thanks=True)

    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start(saga, Order("o-1"), saga_id="o-1", tx=tx)
        await stands(box, "fulfil", "o-1", "completed")
        await box.sagas.compensate("o-1", saga="fulfil", reason="it came back by post", by="ops")
        await stands(box, "fulfil", "o-1", "compensated")

    assert happened == ["charge", "pack", "send off", "unpack", "give back"]


def two_parents() -> tuple[Pillarbox, dict[str, Saga[Order]], list[str]]:
    """A saga, and two others with steps of one name whose child it is."""
    box, child = Pillarbox("shop", store="memory://"), Saga("delivery", state=Order)
    sagas = {of: Saga(of, state=Order) for of in ("fulfil", "return")}
    happened: list[str] = []

    @child.step
    async def send(state: Order, tx: AsyncConnection) -> None:
        happened.append(f"send {state.order_id}")

    @send.compensate
    async def call_back(state: Order, tx: AsyncConnection) -> None:
        happened.append(f"call back {state.order_id}")

    for saga in sagas.values():

        @saga.child(child)
        def ship(state: Order) -> Order:
            return Order(state.order_id)

    sagas["delivery"] = child
    for each in sagas.values():
        box.include(each)
    return box, sagas, happened


async def test_a_step_that_makes_no_state_of_its_child_is_told_what_to_return() -> None:
    box, child, saga = Pillarbox("shop", store="memory://"), Saga("delivery", state=Order), Saga("fulfil", state=Order)

    @child.step
    async def pack(state: Order) -> None: ...

    @saga.child(child)
    def deliver(state: Order) -> Order:
        return None  # type: ignore[return-value]

    box.include(saga)
    box.include(child)
    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start(saga, Order("o-1"), saga_id="o-1", tx=tx)
        found = await stands(box, "fulfil", "o-1", "compensated", "needs_attention")

    error = decode_journal(found.journal).do["deliver"].error
    assert error.endswith("step 'deliver' of shop/fulfil returned NoneType; return Order, the child's state")


async def test_children_of_two_sagas_with_one_id_are_two() -> None:
    box, sagas, happened = two_parents()

    async with box, box.running():
        async with box.transaction() as tx:
            for of in ("fulfil", "return"):
                await box.sagas.start(sagas[of], Order(of), saga_id="1", tx=tx)
        for of in ("fulfil", "return"):
            await stands(box, of, "1", "completed")
            await stands(box, "delivery", f"1.{of}.ship", "completed")

    assert sorted(happened) == ["send fulfil", "send return"]


async def test_a_step_whose_child_has_an_id_that_is_taken_fails_and_leaves_the_other_alone() -> None:
    box, sagas, happened = two_parents()

    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start(sagas["delivery"], Order("another's"), saga_id="1.fulfil.ship", tx=tx)
        await stands(box, "delivery", "1.fulfil.ship", "completed")
        async with box.transaction() as tx:
            await box.sagas.start(sagas["fulfil"], Order("mine"), saga_id="1", tx=tx)
            await box.sagas.start(sagas["return"], Order("theirs"), saga_id="1", tx=tx)
        found = await stands(box, "fulfil", "1", "compensated")
        await stands(box, "return", "1", "completed")
        other = await box.sagas.get("1.fulfil.ship", saga="delivery")

    assert "1.fulfil.ship" in decode_journal(found.journal).do["ship"].error
    assert other.summary.status == "completed"
    assert sorted(happened) == ["send another's", "send theirs"]


async def test_a_parent_whose_child_ended_too_long_ago_to_be_kept_says_so_and_does_not_wait_for_ever() -> None:
    box, saga, happened = delivering(thanks=True)

    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start(saga, Order("o-1"), saga_id="o-1", tx=tx)
        await stands(box, "fulfil", "o-1", "completed")
        async with box.transaction() as tx:
            await tx.execute(delete(saga_instances).where(saga_instances.c.saga_id == "o-1.fulfil.deliver"))
        await box.sagas.compensate("o-1", saga="fulfil", reason="it came back by post", by="ops")
        parent = await stands(box, "fulfil", "o-1", "needs_attention", "compensated")
        await box.sagas.skip("o-1", saga="fulfil", step="deliver", reason="unpacked by hand", by="ops")
        await stands(box, "fulfil", "o-1", "compensated")

    assert parent.summary.status == "needs_attention"
    assert "not kept any more" in decode_journal(parent.journal).undo["deliver"].error
    assert happened == ["charge", "pack", "send off", "give back"]
