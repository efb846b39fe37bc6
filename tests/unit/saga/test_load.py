"""How many sagas are in hand at once: by what is kept of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from pillarbox import Pillarbox, Saga
from pillarbox.saga import load
from pillarbox.saga.load import AT_FIRST, MOST_CHARS, Load
from pillarbox.saga.store import SagaKey, SagaRow
from tests.unit.saga.standing import stands


@dataclass
class Order:
    order_id: str
    notes: str = ""


def rows(count: int, *, chars: int) -> list[SagaRow]:
    return [
        SagaRow(
            key=SagaKey("shop/fulfil", f"o-{number}"),
            version=1,
            state="s" * (chars - 2),
            content_type="application/json",
            journal="{}",
            correlation_id="c",
            serial=1,
            now_us=1,
        )
        for number in range(count)
    ]


def test_what_is_light_is_taken_in_growing_numbers_up_to_the_largest() -> None:
    taken, met = Load(largest=500), [AT_FIRST]

    for _ in range(6):
        taken.weigh(rows(3, chars=200))
        met.append(taken.most)
    taken.weigh([])

    assert met == [20, 40, 80, 160, 320, 500, 500]
    assert taken.most == 500


def test_of_what_is_heavy_so_many_are_taken_as_come_to_the_bound() -> None:
    taken = Load(largest=500)

    taken.weigh(rows(2, chars=MOST_CHARS // 8))
    assert taken.most == 8
    taken.weigh(rows(1, chars=2 * MOST_CHARS))
    assert taken.most == 1
    taken.weigh(rows(1, chars=200))
    assert taken.most == AT_FIRST


def test_of_large_ones_that_follow_upon_small_ones_those_beyond_the_bound_wait() -> None:
    taken = Load(largest=500)
    taken.weigh(rows(3, chars=200))
    large = rows(40, chars=MOST_CHARS // 4)

    assert taken.weigh(large) == large[:4]
    assert taken.weigh(large[:3]) == large[:3]
    assert len(taken.weigh(rows(2, chars=2 * MOST_CHARS))) == 1
    assert taken.weigh([]) == []


@pytest.mark.parametrize("at_first", [pytest.param(2, id="few"), pytest.param(12, id="more-than-fit")])
async def test_calls_of_large_sagas_are_made_a_few_at_once_and_all_of_them(
    monkeypatch: pytest.MonkeyPatch, at_first: int
) -> None:
    monkeypatch.setattr(load, "AT_FIRST", at_first)
    monkeypatch.setattr(load, "MOST_CHARS", 5_000)
    box, fulfil = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order)
    at_once: list[int] = []
    under_way: set[str] = set()

    @fulfil.step
    async def pay(state: Order) -> None:
        under_way.add(state.order_id)
        at_once.append(len(under_way))
        await asyncio.sleep(0)  # others may begin meanwhile
        under_way.remove(state.order_id)

    box.include(fulfil)
    orders = {f"o-{number}": Order(f"o-{number}", "n" * 1_000) for number in range(12)}
    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start_all(fulfil, orders, tx=tx)
        for saga_id in orders:
            await stands(box, "fulfil", saga_id, "completed")

    assert len(at_once) == 12
    assert max(at_once) <= 5
