"""Handlers get what they ask for by annotation, and what cannot be had is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from pillarbox.consumer import Context, Provider, Providers
from pillarbox.consumer.injection import signature_of
from pillarbox.errors import ConfigurationError, UnsatisfiedInjectionError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from decimal import Decimal


@dataclass
class Payments:
    """Something that a box provides."""

    number: int = 0


async def with_everything(order: str, tx: AsyncConnection, ctx: Context, *, payments: Payments) -> None: ...
async def with_session(order: str, session: AsyncSession) -> None: ...
def plain(order: str, tx: Connection) -> None: ...
def plain_with_session(order: str, tx: Session) -> None: ...
async def outside(order: str, payments: Payments) -> None: ...
async def without_payload() -> None: ...
async def without_annotation(order: str, tx) -> None: ...  # type: ignore[no-untyped-def]
async def with_wrong_colour(order: str, tx: Connection) -> None: ...
def plain_with_wrong_colour(order: str, tx: AsyncSession) -> None: ...
async def with_unresolved(order: str, amount: Decimal) -> None: ...


def test_what_a_handler_asks_for_is_read_from_its_annotations() -> None:
    signature = signature_of(with_everything, owner="here")

    assert signature.payload is str
    assert signature.wants == {"tx": AsyncConnection, "ctx": Context, "payments": Payments}
    assert (signature.is_async, signature.transaction) == (True, AsyncConnection)


@pytest.mark.parametrize(
    ("handler", "is_async", "transaction"),
    [
        (with_session, True, AsyncSession),
        (plain, False, Connection),
        (plain_with_session, False, Session),
        (outside, True, None),
    ],
)
def test_the_kind_of_transaction(handler: object, is_async: bool, transaction: type[object] | None) -> None:
    signature = signature_of(handler, owner="here")  # type: ignore[arg-type]

    assert (signature.is_async, signature.transaction) == (is_async, transaction)


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (without_payload, "takes no payload"),
        (without_annotation, "tx has no annotation"),
        (with_wrong_colour, "asks for Connection; let it ask for AsyncConnection or AsyncSession"),
        (plain_with_wrong_colour, "asks for AsyncSession; let it ask for Connection or Session"),
        (with_unresolved, "'Decimal' cannot be resolved"),
    ],
)
def test_what_cannot_be_injected_is_named(handler: object, says: str) -> None:
    with pytest.raises(UnsatisfiedInjectionError) as refused:
        signature_of(handler, owner="here")  # type: ignore[arg-type]

    assert "here: " in str(refused.value)
    assert says in str(refused.value)


def test_what_nothing_provides_is_missing() -> None:
    signature = signature_of(with_everything, owner="here")

    assert signature.missing({}) == ["payments: Payments"]
    assert signature.missing({Payments: Provider(factory=Payments, scope="app")}) == []


async def test_what_is_made_once_is_made_when_it_is_first_asked_for() -> None:
    made: list[Payments] = []
    providers = Providers()

    def make() -> Payments:
        made.append(Payments(len(made)))
        return made[-1]

    providers.provide(Payments, Provider(factory=make, scope="app"))
    assert made == []

    assert await providers.get(Payments) is await providers.get(Payments)
    assert len(made) == 1


async def test_what_is_made_for_a_message_is_made_each_time() -> None:
    providers = Providers()
    providers.provide(Payments, Provider(factory=Payments, scope="message"))

    assert await providers.get(Payments) is not await providers.get(Payments)


async def test_a_factory_may_be_asynchronous() -> None:
    providers = Providers()

    async def make() -> Payments:
        return Payments(7)

    providers.provide(Payments, Provider(factory=make, scope="app"))

    assert await providers.get(Payments) == Payments(7)


def yields() -> Iterator[Payments]:
    yield Payments()


async def yields_too() -> AsyncIterator[Payments]:
    yield Payments()


@pytest.mark.parametrize(
    ("factory", "says"), [(Payments(), "lambda"), (yields, "Payments yields it"), (yields_too, "Payments yields it")]
)
def test_what_makes_nothing_is_refused_when_it_is_said(factory: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Providers().provide(Payments, Provider(factory=factory, scope="message"))


async def test_an_override_takes_the_place_of_what_was_made() -> None:
    providers = Providers()
    providers.provide(Payments, Provider(factory=Payments, scope="app"))
    await providers.get(Payments)

    fake = Payments(99)
    providers.override(Payments, fake)

    assert await providers.get(Payments) is fake


async def test_what_is_provided_while_an_override_lasts_stays_when_it_has_ended() -> None:
    providers = Providers()
    with providers.override(Payments, Payments(99)):
        providers.provide(Payments, Provider(factory=Payments, scope="app"))
        provided = await providers.get(Payments)

    assert await providers.get(Payments) is provided


async def test_a_twin_provides_the_same_now_and_later_but_makes_its_own() -> None:
    providers = Providers()
    providers.provide(Payments, Provider(factory=Payments, scope="app"))
    original = await providers.get(Payments)

    twin = providers.twin()
    assert await twin.get(Payments) is not original
    fake = Payments(99)
    providers.override(Payments, fake)

    assert await twin.get(Payments) is fake
