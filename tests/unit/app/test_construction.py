"""A box is constructed without connecting to anything, and says what is wrong with its places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from pillarbox import Handlers, Pillarbox, Settings, event
from pillarbox.brokers.memory import MemoryBroker
from pillarbox.errors import ConfigurationError, DuplicateTypeError, InvalidSetupError
from pillarbox.observe import Event, Observer
from pillarbox.serialization import ForeignMessages
from pillarbox.testing import VirtualClock

SECRET = "s3cret-Pa55"


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    """An event."""

    order_id: str


class Happening(Observer):
    """An observer."""

    def notice(self, event: Event, /) -> None:
        """Do nothing."""


async def handle(order: OrderPlaced, tx: AsyncConnection) -> None: ...


@pytest.fixture(autouse=True)
def no_places_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PILLARBOX_STORE", raising=False)
    monkeypatch.delenv("PILLARBOX_BROKER", raising=False)


def test_without_a_store_the_error_says_how_to_name_one() -> None:
    with pytest.raises(ConfigurationError, match=r"store=.* PILLARBOX_STORE"):
        Pillarbox("shop")


def test_the_environment_can_name_both_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILLARBOX_STORE", "memory://")
    monkeypatch.setenv("PILLARBOX_BROKER", "memory://")

    box = Pillarbox("shop")

    assert (box.store.name, type(box.broker)) == ("SQLite", MemoryBroker)


@pytest.mark.parametrize("channel", ["payments", "queue:", "queue:Payments", "exchange:payments"])
def test_messages_of_others_on_what_is_no_channel_are_refused_since_nobody_would_read_them_so(channel: str) -> None:
    theirs = ForeignMessages(id="header:x-id", type="=payment.charge")

    with pytest.raises(ConfigurationError, match=r"queue"):
        Settings(foreign={channel: theirs})


def test_a_channel_whose_name_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Settings\.foreign: the name of a channel must be a text, got 3"):
        Settings(foreign={3: ForeignMessages(id="header:x-id", type="=payment.charge")})  # type: ignore[dict-item]


@pytest.mark.parametrize("store", ["oracle://h/d", "redis://h", "kafka://h"])
def test_a_store_of_an_unknown_kind_is_refused_and_the_known_ones_are_named(store: str) -> None:
    with pytest.raises(ConfigurationError, match=r"postgresql\+psycopg"):
        Pillarbox("shop", store=store)


@pytest.mark.parametrize("store", ["sqlite://shop.db", "sqlite+aiosqlite://shop.db", "sqlite://data/shop.db"])
def test_a_file_that_stands_where_a_host_would_is_refused_and_no_database_in_memory(store: str) -> None:
    with pytest.raises(ConfigurationError, match=r"sqlite:///FILE"):
        Pillarbox("shop", store=store)


@pytest.mark.parametrize("password", [f"p@{SECRET}", f"p@{SECRET}/w", f"p@@{SECRET}"])
def test_an_at_sign_within_a_password_does_not_make_a_host_of_the_rest(password: str) -> None:
    with pytest.raises(ConfigurationError, match="%40") as caught:
        Pillarbox("shop", store=f"postgresql+psycopg://me:{password}@db.example/shop")

    assert SECRET not in str(caught.value)


def test_a_broker_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="carrier-pigeon"):
        Pillarbox("shop", store="memory://", broker="carrier-pigeon://h")


@pytest.mark.parametrize("name", ["", "Shop", "my shop", "shop/one", "ш"])
def test_a_service_needs_a_name_that_every_broker_takes(name: str) -> None:
    with pytest.raises(ConfigurationError, match="service"):
        Pillarbox(name, store="memory://")


@pytest.mark.parametrize(
    "place",
    [
        f"oracle://me:{SECRET}@h/d",
        f"postgresql//me:{SECRET}@h/d",
        f"postgresql+nothing://me:{SECRET}@h:no-port/d",
        f"me:{SECRET}@h",
    ],
)
@pytest.mark.parametrize("which", ["store", "broker"])
def test_no_error_shows_a_password(place: str, which: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Pillarbox("shop", **{"store": "memory://", which: place})  # type: ignore[arg-type]

    error: BaseException | None = refused.value
    while error is not None:
        assert SECRET not in f"{error} {error!r}"
        error = error.__cause__


def test_neither_a_box_nor_its_parts_show_a_password() -> None:
    box = Pillarbox("shop", store=f"postgresql+psycopg://me:{SECRET}@127.0.0.1:1/d")

    shown = f"{box} {box!r} {box.store!r} {box.broker!r} {box.store.engine!r} {vars(box)}"

    assert SECRET not in shown


def test_engines_of_the_callers_are_taken(tmp_path: object) -> None:
    file = f"{tmp_path}/shop.db"

    assert Pillarbox("shop", store=create_engine(f"sqlite:///{file}")).store.name == "SQLite"
    assert Pillarbox("shop", store=create_async_engine(f"sqlite+aiosqlite:///{file}")).store.name == "SQLite"
    assert Pillarbox("shop", store=create_async_engine("postgresql+asyncpg://h/d")).store.name == "PostgreSQL"


def test_an_engine_on_a_database_in_memory_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="memory"):
        Pillarbox("shop", store=create_engine("sqlite://"))


def test_boxes_share_nothing() -> None:
    one, other = Pillarbox("one", store="memory://"), Pillarbox("other", store="memory://")
    one.on(OrderPlaced)(handle)

    assert (len(one.consumers()), other.consumers()) == (1, ())


def test_handlers_are_included_once() -> None:
    handlers = Handlers()
    handlers.on(OrderPlaced)(handle)
    box = Pillarbox("shop", store="memory://")
    box.include(handlers)
    box.include(handlers)

    assert len(box.consumers()) == 1


def test_two_classes_of_one_name_cannot_be_registered() -> None:
    @event("order.placed", key="order_id")
    @dataclass(frozen=True)
    class Another:
        order_id: str

    box = Pillarbox("shop", store="memory://")
    box.register(OrderPlaced)

    with pytest.raises(DuplicateTypeError):
        box.register(Another)


def test_two_classes_of_one_name_among_the_handlers_are_a_start_up_error() -> None:
    @event("order.placed", key="order_id")
    @dataclass(frozen=True)
    class Another:
        order_id: str

    box = Pillarbox("shop", store="memory://")
    box.on(OrderPlaced, name="one")(handle)
    box.on(Another, name="two")(handle)

    with pytest.raises(ConfigurationError, match=r"order\.placed"):
        box.consumers()


def test_missing_upcasters_are_a_start_up_error() -> None:
    @event("order.placed", key="order_id", version=3)
    @dataclass(frozen=True)
    class Third:
        order_id: str

    box = Pillarbox("shop", store="memory://")
    box.register(Third, upcasters={1: lambda body: body})
    box.on(Third, name="one")(handle)

    with pytest.raises(InvalidSetupError, match=r"order\.placed version 2"):
        box.consumers()


def test_a_twin_has_the_same_declarations_in_another_place() -> None:
    box = Pillarbox("shop", store="postgresql+psycopg://h/d", broker="memory://")
    box.on(OrderPlaced, name="one")(handle)

    twin = box.twin(store="memory://", settings=Settings(clock=VirtualClock()))
    box.on(OrderPlaced, name="two")(handle)

    assert [consumer.identity for consumer in twin.consumers()] == ["shop/one", "shop/two"]
    assert twin.store.name == "SQLite"
    assert twin.registry is box.registry


@pytest.mark.parametrize("name", ["answer_within", "keep_flows", "keep_sagas"])
@pytest.mark.parametrize("time", [timedelta(0), timedelta(days=-1)])
def test_times_that_are_over_at_once_are_refused(name: str, time: timedelta) -> None:
    """A database would be given up before it answers, and a saga removed before its end is seen."""
    with pytest.raises(ConfigurationError, match=rf"Settings\.{name} must be a timedelta (above zero|of at least)"):
        replace(Settings(), **{name: time})


def test_handlers_cannot_be_waited_for_in_the_past() -> None:
    with pytest.raises(ConfigurationError, match=r"drain_within must be a timedelta of at least zero"):
        Settings(drain_within=timedelta(seconds=-1))


def test_a_database_cannot_be_waited_for_longer_than_it_can_count() -> None:
    with pytest.raises(ConfigurationError, match="at most 24 days"):
        Settings(answer_within=timedelta(days=30))


@pytest.mark.parametrize(
    ("places", "says"),
    [
        ({"store": Path("shop.db")}, r"Pillarbox\(store=\) must be a text or URL.+ or AsyncEngine.+, got a \w*Path"),
        ({"broker": 5}, r"Pillarbox\(broker=\) must be a text or a Broker, got a int"),
        ({"settings": {"max_held": 1}}, r"Pillarbox\(settings=\) must be Settings"),
        ({"codec": "json"}, r"Pillarbox\(codec=\) must be a Codec, or None, got 'json'"),
    ],
)
def test_what_is_no_place_or_setting_is_refused_by_name(places: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Pillarbox("shop", **{"store": "memory://", **places})


def test_an_object_may_be_the_broker() -> None:
    broker = MemoryBroker(clock=VirtualClock())

    assert Pillarbox("shop", store="memory://", broker=broker).broker is broker


def test_a_place_that_is_none_is_refused_without_its_text_which_may_hold_a_password() -> None:
    with pytest.raises(ConfigurationError) as refused:
        Pillarbox("shop", store="memory://", broker={"url": f"redis://:{SECRET}@h"})  # type: ignore[arg-type]

    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("part", [dataclass, Handlers, OrderPlaced, "shop.stock", None])
def test_what_holds_no_declarations_is_refused_and_not_left_for_the_start(part: Any) -> None:
    """As where a module is included instead of the handlers in it."""
    with pytest.raises(ConfigurationError, match=r"include\(stock\.handlers\)"):
        Pillarbox("shop", store="memory://").include(part)


@pytest.mark.parametrize(
    ("say", "says"),
    [
        (lambda box: box.alert_to("https://alerts.example"), "asynchronous function or an alert"),
        (lambda box: box.alert_to(print, rules=5), r"alert_to\(rules=\) must be AlertRules"),
        (lambda box: box.dependency("bank", 5), "the breaker of dependency 'bank' must be CircuitBreaker"),
        (lambda box: box.observe(Happening), r"observe\(\) must be an Observer, got the class Happening"),
        (lambda box: box.provide(int, int, scope="request"), "scope must be 'app' or 'message', got 'request'"),
        (
            lambda box: box.flow("f", starts=OrderPlaced, ends=(), within=5),
            "must be a timedelta above zero and at most 36500 days, got 5",
        ),
    ],
)
def test_what_is_of_no_use_to_a_box_is_refused_when_it_is_said(say: Callable[[Pillarbox], None], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        say(Pillarbox("shop", store="memory://"))
