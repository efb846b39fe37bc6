"""Definitions of sagas: what is refused, and that all of it is reported."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import msgspec
import pydantic
import pytest

from pillarbox import Pillarbox, Saga, command, event
from pillarbox.errors import ConfigurationError, InvalidSetupError


@dataclass
class Order:
    """A state."""

    order_id: str


@event("told", key="order_id")
@dataclass
class Told:
    """A reply."""

    order_id: str


@command("tell", queue="telling", key="order_id")
@dataclass
class Tell:
    """A command."""

    order_id: str


def test_what_is_wrong_with_a_definition_is_all_reported() -> None:
    box = Pillarbox("shop", store="memory://")
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.step(pivot=True)
    async def one(state: Order) -> None: ...

    @saga.step(pivot=True, parallel="x")
    async def two(state: Order, missing: timedelta) -> None: ...

    @saga.step
    async def three(state: Order) -> None: ...

    @saga.step(parallel="x")
    async def four(state: Order) -> None: ...

    async def again(state: Order) -> None: ...

    with pytest.raises(ConfigurationError, match="two steps named 'one'"):
        saga.step(name="one")(again)
    with pytest.raises(ConfigurationError, match="replies="):
        saga.request(replies=())
    with pytest.raises(ConfigurationError, match="dataclass"):
        Saga("x", state=int)
    box.include(saga)
    with pytest.raises(InvalidSetupError) as caught:
        box.consumers()
    text = str(caught.value)
    for part in ("two pivots", "runs beside others", "no neighbours", "nothing provides missing"):
        assert part in text


def test_what_is_no_function_no_class_and_no_saga_is_refused_at_once() -> None:
    saga, nothing = Saga("fulfil", state=Order), cast("Any", 3)

    @saga.request(replies=(Told,))
    def ask(state: Order) -> Tell: ...

    for declare, reason in [
        (lambda: saga.step(nothing), "a step must be a function, got 3"),
        (lambda: saga.child(nothing), "a child must be Saga"),
        (lambda: ask.on(nothing)(lambda *_: None), "a reply must be a class, got 3"),
        (lambda: Saga("x", state=Order, version=2, upcasters={1: nothing}), "an upcaster must be a function, got 3"),
    ]:
        with pytest.raises(ConfigurationError, match=reason):
            declare()


def test_a_step_is_no_function_of_another_step() -> None:
    first, second = Saga("first", state=Order), Saga("second", state=Order)

    @first.step
    async def one(state: Order) -> None: ...

    with pytest.raises(ConfigurationError, match="'one' is declared as a step already"):
        second.step(one)


class InALine(msgspec.Struct, array_like=True):
    order_id: str


class Rooted(pydantic.RootModel[list[str]]):
    pass


@pytest.mark.parametrize("state", [InALine, Rooted])
def test_what_is_written_without_names_cannot_be_merged(state: type[object]) -> None:
    box, saga = Pillarbox("shop", store="memory://"), Saga("fulfil", state=state)

    async def one(state: object) -> None: ...

    saga.step(name="first", parallel="both")(one)
    saga.step(name="second", parallel="both")(one)
    box.include(saga)

    with pytest.raises(InvalidSetupError, match="merged by the names of fields"):
        box.consumers()


def test_what_is_written_without_names_may_be_a_state_else() -> None:
    box, saga = Pillarbox("shop", store="memory://"), Saga("fulfil", state=InALine)

    @saga.step
    async def one(state: InALine) -> None: ...

    box.include(saga)
    box.consumers()


@pytest.mark.parametrize("names", [["only"], ["parent", "child", "grandchild"]])
def test_a_saga_among_its_own_descendants_would_never_end(names: list[str]) -> None:
    box, sagas = Pillarbox("shop", store="memory://"), [Saga(name, state=Order) for name in names]

    def make(state: Order) -> Order:
        return state

    for saga, child in zip(sagas, [*sagas[1:], sagas[0]], strict=True):
        saga.child(child, name="deliver")(make)
        box.include(saga)

    with pytest.raises(InvalidSetupError) as caught:
        box.consumers()
    assert [name for name in names if f"saga '{name}' is among its own children" in str(caught.value)] == names


def test_a_child_is_undone_by_its_own_steps_and_by_nothing_else() -> None:
    child, saga = Saga("delivery", state=Order), Saga("fulfil", state=Order)

    @saga.child(child)
    def deliver(state: Order) -> Order: ...  # type: ignore[empty-body]

    async def take_back(state: Order) -> None: ...

    with pytest.raises(ConfigurationError, match="step 'deliver' starts a child, which is undone as a whole"):
        deliver.compensate(take_back)


@pytest.mark.parametrize("includes_namesake", [False, True])
def test_a_child_that_is_not_included_is_refused_though_another_bears_its_name(*, includes_namesake: bool) -> None:
    box, saga = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order)
    child, namesake = Saga("delivery", state=Order), Saga("delivery", state=Order)

    @saga.child(child)
    def deliver(state: Order) -> Order: ...  # type: ignore[empty-body]

    @namesake.step
    async def pack(state: Order) -> None: ...

    box.include(saga)
    if includes_namesake:
        box.include(namesake)
    with pytest.raises(InvalidSetupError, match="its child 'delivery' is not included in the box; include it too"):
        box.consumers()


def test_an_older_version_may_be_the_child_of_a_newer_one() -> None:
    box, older, newer = (
        Pillarbox("shop", store="memory://"),
        *(Saga("fulfil", state=Order, version=of) for of in (1, 2)),
    )

    def make(state: Order) -> Order:
        return state

    async def pay(state: Order) -> None: ...

    older.step(pay)
    newer.child(older, name="deliver")(make)
    box.include(older)
    box.include(newer)
    box.consumers()


def test_a_name_that_no_store_could_hold_beside_its_service_s_is_refused() -> None:
    box = Pillarbox("s" * 100, store="memory://")
    saga: Saga[Order] = Saga("f" * 80, state=Order)

    @saga.step
    async def one(state: Order) -> None: ...

    box.include(saga)
    with pytest.raises(InvalidSetupError, match=r"saga 's{100}/f{80}' has a name of 181 characters"):
        box.consumers()


@pytest.mark.parametrize("version", [0, -1, 1.5, True, 2**31])
def test_a_version_that_is_no_number_of_a_version_is_refused(version: Any) -> None:
    with pytest.raises(ConfigurationError, match="whole number of at least 1 and at most 2147483647"):
        Saga("fulfil", state=Order, version=version)


@pytest.mark.parametrize("versions", [(1,), (1, 3), (2, 3, 4), (0, 1, 2, 3), (5,)])
def test_upcasters_that_do_not_lead_to_the_version_are_refused(versions: tuple[int, ...]) -> None:
    """Instances of an older version would stand still, though somebody has thought of them."""
    Saga("fulfil", state=Order, version=4, upcasters={3: dict, 2: dict})

    with pytest.raises(ConfigurationError, match="only with one from each version between"):
        Saga("fulfil", state=Order, version=4, upcasters=dict.fromkeys(versions, dict))


@pytest.mark.parametrize("upcasters", [[dict], {"1": dict}, {1: dict, "2": dict}])
def test_upcasters_that_are_not_by_version_are_refused(upcasters: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"saga 'fulfil': .*upcasters must be a"):
        Saga("fulfil", state=Order, version=3, upcasters=upcasters)


def test_a_second_reaction_to_a_reply_is_refused() -> None:
    """It would be called in place of the first one."""

    @event("definition.shipped", key="order_id")
    @dataclass(frozen=True)
    class Shipped:
        order_id: str

    saga = Saga("fulfil", state=Order)

    @saga.request(replies=(Shipped,))
    def ship(state: Order) -> object: ...

    @ship.on(Shipped)
    def shipped(state: Order, reply: Shipped) -> None: ...

    with pytest.raises(ConfigurationError, match=r"a reaction to .*Shipped already"):
        ship.on(Shipped)(shipped)


@event("definition.packed", key="order_id")
@dataclass(frozen=True)
class Packed:
    """A reply."""

    order_id: str


def _unresolved(state: Order, reply: Packed) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821


def _alone(state: Order) -> None: ...


@pytest.mark.parametrize(
    ("reaction", "problem"),
    [(_unresolved, "the annotation 'Nowhere' cannot be resolved"), (_alone, "it takes the state and the reply")],
)
def test_what_is_wrong_with_a_reaction_is_reported_with_its_place(reaction: Any, problem: str) -> None:
    box, saga = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order)

    @saga.request(replies=(Packed,))
    def pack(state: Order) -> object: ...

    pack.on(Packed)(reaction)
    box.include(saga)

    with pytest.raises(InvalidSetupError, match=f"'pack' .*on Packed: {problem}"):
        box.consumers()
