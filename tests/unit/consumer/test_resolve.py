"""From declarations to consumers: everything that is wrong is found at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial, update_wrapper
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox.channel import BrokerCapabilities
from pillarbox.consumer import Consumer, Context, Handlers
from pillarbox.consumer.resolve import check_rename, resolve
from pillarbox.errors import (
    ConfigurationError,
    DuplicateConsumerError,
    InvalidSetupError,
    UnsatisfiedInjectionError,
)
from pillarbox.message import Message, command, event
from pillarbox.ordering import ByKey, BySequence, Causal, GapPolicy, SingleConsumer, Unordered
from pillarbox.retry import Retry
from pillarbox.serialization import UNREADABLE


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    """An event."""

    order_id: str


@event("order.shipped", key="order_id")
@dataclass(frozen=True)
class OrderShipped:
    """Another of the same topic."""

    order_id: str


@event("stock.reserved", key="order_id")
@dataclass(frozen=True)
class StockReserved:
    """One of another topic."""

    order_id: str


@command("payment.charge", queue="payments", key="order_id")
@dataclass(frozen=True)
class ChargePayment:
    """A command."""

    order_id: str


async def handle(order: OrderPlaced | OrderShipped | StockReserved, tx: AsyncConnection) -> None: ...
async def in_batches(orders: list[OrderPlaced], tx: AsyncConnection, contexts: list[Context]) -> None: ...
async def in_batches_with_one_context(orders: list[OrderPlaced], tx: AsyncConnection, ctx: Context) -> None: ...
async def summarise(orders: list[OrderPlaced], tx: AsyncConnection) -> StockReserved: ...
async def handle_again(order: OrderPlaced, tx: AsyncConnection) -> None: ...
async def call_outside(order: OrderPlaced) -> None: ...
async def charge(order: ChargePayment, tx: AsyncConnection) -> None: ...
async def charge_too(order: ChargePayment, tx: AsyncConnection) -> None: ...
async def ask_for_the_moon(order: OrderPlaced, moon: Handlers) -> None: ...
def in_a_thread(order: OrderPlaced, tx: Connection) -> None: ...


def _resolve(handlers: Handlers, *, names_required: bool = False) -> tuple[Consumer, ...]:
    return resolve(handlers.declarations, service="shop", provided={}, names_required=names_required)


def _problems(handlers: Handlers, *, names_required: bool = False) -> tuple[ConfigurationError, ...]:
    with pytest.raises(InvalidSetupError) as refused:
        _resolve(handlers, names_required=names_required)
    return refused.value.problems


def test_a_consumer_has_a_durable_identity_and_its_channels() -> None:
    handlers = Handlers()
    handlers.on(OrderPlaced, OrderShipped, StockReserved, name="reserve-stock")(handle)

    (consumer,) = _resolve(handlers, names_required=True)

    assert consumer.identity == "shop/reserve-stock"
    assert consumer.channels == ("topic:order", "topic:stock")
    assert consumer.message_types == {"order.placed", "order.shipped", "stock.reserved"}
    assert (consumer.mode, consumer.deduplicates) == ("transaction", True)


def test_the_name_is_taken_from_the_function_where_that_is_allowed() -> None:
    handlers = Handlers()
    handlers.on(OrderPlaced)(handle_again)

    assert [consumer.identity for consumer in _resolve(handlers)] == ["shop/handle-again"]


def test_where_the_store_outlives_the_program_a_name_is_required() -> None:
    handlers = Handlers()
    handlers.on(OrderPlaced)(handle)

    (problem,) = _problems(handlers, names_required=True)

    assert "give it name=" in str(problem)
    assert "handle" in str(problem)


def test_a_name_that_no_store_could_hold_beside_its_service_s_is_refused() -> None:
    longest, longer = "n" * 175, "n" * 176
    handlers = Handlers()
    handlers.on(OrderPlaced, name=longest)(handle)
    handlers.on(OrderShipped, name=longer)(handle_again)

    (problem,) = _problems(handlers)

    assert f"'shop/{longer}' has a name of 181 characters" in str(problem)


def test_two_consumers_of_one_name_are_refused() -> None:
    handlers = Handlers()
    handlers.on(OrderPlaced, name="same")(handle)
    handlers.on(OrderShipped, name="same")(handle)

    (problem,) = _problems(handlers)

    assert isinstance(problem, DuplicateConsumerError)
    assert problem.consumer == "shop/same"


def test_a_second_consumer_of_a_command_is_refused() -> None:
    handlers = Handlers()
    handlers.on(ChargePayment, name="charge")(charge)
    handlers.on(ChargePayment, name="charge-too")(charge_too)

    (problem,) = _problems(handlers)

    assert isinstance(problem, DuplicateConsumerError)
    assert problem.consumer == "queue:payments"
    assert "charge_too" in problem.second


def test_several_consumers_of_an_event_are_welcome() -> None:
    handlers = Handlers()
    handlers.on(OrderPlaced, name="one")(handle)
    handlers.on(OrderPlaced, name="two")(handle_again)

    assert len(_resolve(handlers)) == 2


def test_all_problems_are_reported_at_once() -> None:
    handlers = Handlers()
    handlers.on(OrderPlaced, name="Not A Name")(handle)
    handlers.on(OrderPlaced, name="moon")(ask_for_the_moon)
    handlers.on(str, name="undeclared")(handle)
    handlers.on(ChargePayment, name="charge")(charge)
    handlers.on(ChargePayment, name="charge-too")(charge_too)

    problems = _problems(handlers)

    assert len(problems) == 4
    assert isinstance(problems[1], UnsatisfiedInjectionError)
    assert str(problems[1]) == "moon: nothing provides moon: Handlers; use box.provide(Type, factory)"
    lines = str(InvalidSetupError(problems=problems)).splitlines()
    assert lines[1:] == [f"- {problem}" for problem in problems], "one line for each"


def test_a_handler_of_nothing_is_refused() -> None:
    handlers = Handlers()
    handlers.on(name="nothing")(handle)  # type: ignore[call-overload]  # said at run time too

    (problem,) = _problems(handlers)

    assert "name the message types" in str(problem)


@pytest.mark.parametrize("batch", [None, 10])
def test_an_annotation_of_another_message_is_refused(batch: int | None) -> None:
    """It would be given what it is declared on."""
    handlers = Handlers()
    declare: Any = handlers.on(OrderPlaced, OrderShipped, name="wrong", batch=batch)  # type: ignore[call-overload]
    declare(handle_again if batch is None else in_batches)

    (problem,) = _problems(handlers)

    assert "declared on OrderShipped, and its first parameter is annotated OrderPlaced" in str(problem)


@pytest.mark.parametrize("annotation", [object, Any, Message, "OrderPlaced | OrderShipped", None])
def test_an_annotation_that_all_messages_fit_is_let_through(annotation: object) -> None:
    async def anything(order: Any) -> None: ...

    if annotation is None:
        del anything.__annotations__["order"]
    else:
        anything.__annotations__["order"] = annotation
    handlers = Handlers()
    declare: Any = handlers.on(OrderPlaced, OrderShipped, name="any")
    declare(anything)

    assert len(_resolve(handlers)) == 1


class Teller:
    """What can be called, and is no function."""

    async def __call__(self, order: OrderPlaced, tx: AsyncConnection) -> None: ...

    async def tell(self, order: OrderPlaced, tx: AsyncConnection) -> None: ...


async def say(word: str, order: OrderPlaced, tx: AsyncConnection, *, loud: bool) -> None: ...


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (Teller(), "shop/teller"),
        (Teller().tell, "shop/tell"),
        (partial(say, "hello", loud=True), "shop/say"),
        (partial(Teller()), "shop/teller"),
    ],
)
def test_what_can_be_called_is_read_as_the_function_behind_it(handler: Any, name: str) -> None:
    handlers = Handlers()
    handlers.on(OrderPlaced)(handler)

    (consumer,) = _resolve(handlers)

    assert (consumer.identity, consumer.mode, consumer.signature.is_async) == (name, "transaction", True)
    assert list(consumer.signature.wants) == ["tx"]


class Traced:
    """What a decorator makes of a function; it can be called, and passes for the function."""

    keywords = ("order",)

    def __init__(self, function: Callable[..., Any]) -> None:
        update_wrapper(self, function)
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


def book(order: OrderPlaced, tx: Connection) -> None: ...


@pytest.mark.parametrize("handler", [Traced(book), partial(Traced(book))])
def test_what_a_decorator_s_object_asks_for_is_what_its_function_does(handler: Any) -> None:
    handlers = Handlers()
    handlers.on(OrderPlaced)(handler)

    (consumer,) = _resolve(handlers)

    assert (consumer.identity, consumer.mode) == ("shop/book", "transaction")
    assert (consumer.signature.payload, list(consumer.signature.wants)) == (OrderPlaced, ["tx"])


def test_what_only_has_keywords_of_its_own_is_no_partial() -> None:
    class Tagged(Teller):
        keywords = ("order",)

    handlers = Handlers()
    handlers.on(OrderPlaced)(Tagged())

    (consumer,) = _resolve(handlers)

    assert (consumer.signature.payload, list(consumer.signature.wants)) == (OrderPlaced, ["tx"])


def test_a_method_written_in_c_is_a_handler_that_belongs_to_no_package() -> None:
    seen: list[object] = []
    handlers = Handlers()
    declare: Any = handlers.on(OrderPlaced, name="see")
    declare(seen.append)

    (consumer,) = _resolve(handlers)

    assert consumer.package == ""


async def yields_at_its_leisure(order: OrderPlaced) -> AsyncGenerator[StockReserved]:
    yield StockReserved(order.order_id)


def yields(order: OrderPlaced) -> Generator[StockReserved]:
    yield StockReserved(order.order_id)


@pytest.mark.parametrize(
    ("handler", "says"), [(yields, "it yields"), (yields_at_its_leisure, "it yields"), (Teller, "it is a class")]
)
def test_what_would_do_nothing_when_it_is_called_is_refused(handler: Any, says: str) -> None:
    handlers = Handlers()
    handlers.on(OrderPlaced, name="idle")(handler)

    (problem,) = _problems(handlers)

    assert says in str(problem)


def test_declaring_without_calling_on_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="handle: name the message types"):
        Handlers().on(handle)  # type: ignore[arg-type]  # as where @handlers.on stands above it


@pytest.mark.parametrize(
    ("handler", "options", "says"),
    [
        (call_outside, {"idempotency": "inbox"}, "outside=True"),
        (handle, {"concurrency": 0}, "concurrency must be a whole number of at least 1"),
        (handle, {"ordering": Unordered(), "when_dead": "hold-key"}, "when_dead='hold-key'"),
        (handle, {"ordering": Causal(), "idempotency": "natural"}, "Causal"),
        (handle, {"ordering": SingleConsumer(), "concurrency": 2}, "one message at a time"),
        (in_a_thread, {"timeout": timedelta(seconds=1)}, "timeout="),
        (in_batches, {"batch": 0}, "batch must be a whole number of at least 1"),
        (handle, {"ordering": ByKey}, "got the class ByKey; write ByKey()"),
        (handle, {"ordering": SingleConsumer}, "got the class SingleConsumer; write SingleConsumer()"),
        (handle, {"when_dead": "skpi"}, "'hold-key' or 'skip' or 'stop'"),
        (handle, {"idempotency": "natrual"}, "'inbox' or 'natural'"),
        (handle, {"retry": 3}, "retry must be Retry"),
        (handle, {"timeout": 5}, "timeout must be a timedelta"),
        (handle, {"timeout": timedelta(0)}, "timeout must be a timedelta above zero"),
        (handle, {"failures": [ValueError]}, "failures must be a list or tuple, each FailureRule"),
        (call_outside, {"batch": 10}, "needs a transaction"),
        (handle, {"batch": 10}, "its first parameter is a list"),
        (in_batches_with_one_context, {"batch": 10}, "list[Context]"),
        (in_batches, {}, "say batch="),
        (summarise, {"batch": 10}, "follows from none of its messages"),
    ],
)
def test_options_that_contradict_each_other_are_refused(handler: object, options: dict[str, object], says: str) -> None:
    handlers = Handlers()
    handlers.on(OrderPlaced, name="here", **options)(handler)  # type: ignore[arg-type]

    (problem,) = _problems(handlers)

    assert str(problem).startswith("here: ")
    assert says in str(problem)


def test_an_inbox_without_transaction_can_be_said_to_be_meant() -> None:
    handlers = Handlers()
    handlers.on(OrderPlaced, name="here", idempotency="inbox", outside=True)(call_outside)

    (consumer,) = _resolve(handlers)

    assert consumer.mode == "outside"


@pytest.mark.parametrize(
    ("options", "blocks"),
    [
        ({}, True),
        ({"ordering": ByKey()}, True),
        ({"ordering": Unordered()}, False),
        ({"when_dead": "skip"}, False),
        ({"when_dead": "hold-key"}, True),
    ],
)
def test_a_dead_message_holds_its_key_where_order_is_kept(options: dict[str, object], blocks: bool) -> None:
    handlers = Handlers()
    handlers.on(OrderPlaced, name="here", **options)(handle)  # type: ignore[arg-type]

    assert _resolve(handlers)[0].options.blocks_key is blocks


def test_shared_defaults_give_way_to_what_a_handler_says() -> None:
    handlers = Handlers(retry=Retry(attempts=9), when_dead="skip")
    handlers.on(OrderPlaced, name="one")(handle)
    handlers.on(OrderPlaced, name="two", retry=Retry(attempts=2))(handle_again)

    one, two = _resolve(handlers)

    assert (one.options.retry.attempts, two.options.retry.attempts) == (9, 2)
    assert one.options.when_dead == two.options.when_dead == "skip"


def test_declaring_returns_the_function_as_it_is() -> None:
    assert Handlers().on(OrderPlaced)(handle) is handle


def test_natural_idempotency_keeps_no_inbox() -> None:
    handlers = Handlers()
    handlers.on(OrderPlaced, name="here", idempotency="natural")(handle)

    assert not _resolve(handlers)[0].deduplicates


@pytest.mark.parametrize(
    ("durable", "transactional", "is_refused"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_a_consumer_is_renamed_only_where_what_waits_for_it_is_renamed_too(
    *, durable: bool, transactional: bool, is_refused: bool
) -> None:
    handlers = Handlers()
    handlers.on(OrderPlaced, name="new", renamed_from="old")(handle)
    (consumer,) = _resolve(handlers)
    broker = BrokerCapabilities(ordered_prefix=True, key_affinity=True, durable=durable, transactional=transactional)

    if is_refused:
        with pytest.raises(ConfigurationError, match="would never be handled; keep name='old'"):
            check_rename(consumer, broker)
    else:
        check_rename(consumer, broker)


@pytest.mark.parametrize(
    ("kind", "channel", "is_taken"),
    [
        ("order.placed", "topic:order", True),
        ("order.lost", "topic:order", False),
        ("order.lost", "queue:payments", True),
        (UNREADABLE, "topic:order", True),
    ],
)
def test_a_consumer_takes_its_types_what_a_queue_holds_and_what_nobody_can_read(
    kind: str, channel: str, *, is_taken: bool
) -> None:
    handlers = Handlers()
    handlers.on(OrderPlaced, name="one")(handle)
    (consumer,) = _resolve(handlers)
    message = Message(
        id="m", type=kind, destination=channel, key=None, content_type="application/json", headers={}, body=b""
    )

    assert consumer.takes(message) is is_taken


@event("meter.read", key="meter", numbered=True)
@dataclass(frozen=True)
class MeterRead:
    """A numbered event."""

    meter: str


def test_by_sequence_asks_for_numbers() -> None:
    handlers = Handlers()
    handlers.on(OrderPlaced, name="post", ordering=BySequence())(handle)

    with pytest.raises(InvalidSetupError, match=r"order\.placed bears none; declare it with numbered=True"):
        resolve(handlers.declarations, service="shop", provided={}, names_required=False)


def test_by_sequence_asks_for_the_inbox() -> None:
    handlers = Handlers()

    @handlers.on(MeterRead, name="post", ordering=BySequence(), idempotency="natural")
    async def post(read: MeterRead, tx: AsyncConnection) -> None: ...

    with pytest.raises(InvalidSetupError, match="needs the inbox"):
        resolve(handlers.declarations, service="shop", provided={}, names_required=False)


def test_by_sequence_leaves_nothing_out() -> None:
    """What a business key suppresses would never be passed, and a gap for ever."""
    handlers = Handlers()

    @handlers.on(MeterRead, name="post", ordering=BySequence(), dedupe_by="meter")
    async def post(read: MeterRead, tx: AsyncConnection) -> None: ...

    with pytest.raises(InvalidSetupError, match="leave dedupe_by= out"):
        resolve(handlers.declarations, service="shop", provided={}, names_required=False)


def test_by_sequence_keeps_the_order_of_keys() -> None:
    handlers = Handlers()

    @handlers.on(MeterRead, name="post", ordering=BySequence())
    async def post(read: MeterRead, tx: AsyncConnection) -> None: ...

    (consumer,) = resolve(handlers.declarations, service="shop", provided={}, names_required=False)

    assert consumer.options.is_ordered
    assert consumer.options.blocks_key


@pytest.mark.parametrize(
    "policy",
    [{"then": "drop"}, {"wait": timedelta(-1)}, {"max_buffered": 0}, {"then": "skip", "fetch_from": "sqlite:///a"}],
)
def test_a_gap_policy_that_cannot_be_meant_is_refused(policy: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="GapPolicy"):
        GapPolicy(**policy)  # type: ignore[arg-type]
