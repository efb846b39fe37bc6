"""Gives handlers what they ask for by annotation."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias, cast, get_type_hints

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from pillarbox.consumer.context import Context
from pillarbox.errors import ConfigurationError, UnsatisfiedInjectionError
from pillarbox.errors.values import check_values

CONTEXTS = list[Context]
"""What a handler of batches asks for, to get the context of each of its messages."""
Scope: TypeAlias = Literal["app", "message"]
ASYNC_TRANSACTIONS = (AsyncConnection, AsyncSession)
SYNC_TRANSACTIONS = (Connection, Session)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """How something that handlers ask for is made.

    Attributes:
        factory: called without arguments; may be asynchronous for handlers that are.
        scope: ``app`` makes one for all, ``message`` one for each invocation.
    """

    factory: Callable[[], object]
    scope: Scope


@dataclass(slots=True)
class Providers:
    """What one box provides, by type; an override takes the place of what it overrides."""

    by_type: dict[type[object], Provider] = field(default_factory=dict[type[object], Provider])
    made: dict[type[object], tuple[Provider, object]] = field(
        default_factory=dict[type[object], tuple[Provider, object]]
    )
    """What was made once for all, and by which provider: it serves as long as that is the provider."""

    def provide(self, kind: type[object], provider: Provider) -> None:
        """Provide ``kind`` from now on.

        Raises:
            ConfigurationError: its factory is no function, or one that yields.
        """
        factory = provider.factory
        if not callable(factory):
            raise ConfigurationError(
                f"what provides {_name(kind)} cannot be called to make one; give a function, as in lambda: it"
            )
        if inspect.isgeneratorfunction(factory) or inspect.isasyncgenfunction(factory):
            raise ConfigurationError(
                f"what provides {_name(kind)} yields it, and nobody would go on with it afterwards; let it return it"
            )
        check_values(provider, where=f"what provides {_name(kind)}: ")
        self.by_type[kind] = provider

    def override(self, kind: type[object], instance: object) -> AbstractContextManager[object]:
        """Give ``instance`` to whoever asks for ``kind``, until the block ends where it is used as one."""
        before, instead = self.by_type.get(kind), Provider(factory=lambda: instance, scope="app")
        self.by_type[kind] = instead
        block = ExitStack()
        block.callback(self._restore, kind, before, instead)
        return block

    def _restore(self, kind: type[object], before: Provider | None, instead: Provider) -> None:
        if self.by_type.get(kind) is not instead:  # it was provided within the block, and stays so
            return
        if before is None:
            self.by_type.pop(kind, None)
        else:
            self.by_type[kind] = before

    def twin(self) -> Providers:
        """Return the same providers, now and later, that have made nothing yet."""
        return Providers(by_type=self.by_type)

    async def get(self, kind: type[object]) -> object:
        """Return what ``kind`` asks for, made now if need be."""
        provider = self.by_type[kind]
        if (known := self._made_by(provider, kind)) is not None:
            return known[1]
        made = provider.factory()
        if inspect.isawaitable(made):
            made = await made
        if provider.scope == "message":
            return made
        known = self._made_by(provider, kind)  # by somebody else, while the factory was awaited
        if known is None:
            known = self.made[kind] = (provider, made)
        return known[1]

    def _made_by(self, provider: Provider, kind: type[object]) -> tuple[Provider, object] | None:
        known = self.made.get(kind)
        return known if known is not None and known[0] is provider else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a handler asks for.

    Attributes:
        payload: the annotation of its first parameter.
        returns: the annotation of what it returns.
        wants: parameter → type, for all others.
        is_async: it is declared with ``async def``.
        transaction: the kind of transaction it asks for, if any.
    """

    payload: object
    returns: object
    wants: Mapping[str, type[object]]
    is_async: bool
    transaction: type[object] | None

    def missing(self, provided: Mapping[type[object], Provider]) -> list[str]:
        """Return the parameters that nothing satisfies."""
        known = {*provided, *ASYNC_TRANSACTIONS, *SYNC_TRANSACTIONS, Context, CONTEXTS}
        return [f"{name}: {_name(kind)}" for name, kind in self.wants.items() if kind not in known]


def signature_of(handler: Callable[..., object], *, owner: str) -> Signature:
    """Read what ``handler`` asks for.

    Raises:
        ConfigurationError: it is a class, or yields.
        UnsatisfiedInjectionError: it takes no payload, leaves a parameter without annotation, or asks for a
            transaction of the wrong colour.
    """
    called = _called(handler)
    if inspect.isclass(handler) or inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        what = "is a class" if inspect.isclass(handler) else "yields"
        raise ConfigurationError(f"{owner}: it {what}, and nothing would be done; let it be a function that returns")
    try:
        hints: dict[str, Any] = get_type_hints(function_of(handler))
    except NameError as error:
        problem = f"{owner}: the annotation {error.name!r} cannot be resolved; import it where the handler is defined"
        raise UnsatisfiedInjectionError(problems=[problem]) from error
    given = _given_to(handler)
    parameters = [one for one in inspect.signature(handler).parameters.values() if one.name not in given]
    if not parameters:
        raise UnsatisfiedInjectionError(problems=[f"{owner}: it takes no payload; the first parameter is the message"])
    first, *others = parameters
    untyped = [parameter.name for parameter in others if parameter.name not in hints]
    if untyped:
        raise UnsatisfiedInjectionError(problems=[f"{owner}: {', '.join(untyped)} has no annotation to inject by"])
    wants = {parameter.name: hints[parameter.name] for parameter in others}
    is_async = inspect.iscoroutinefunction(called)
    asked = [kind for kind in wants.values() if kind in (*ASYNC_TRANSACTIONS, *SYNC_TRANSACTIONS)]
    wrong = [kind for kind in asked if kind not in (ASYNC_TRANSACTIONS if is_async else SYNC_TRANSACTIONS)]
    if wrong:
        right = "AsyncConnection or AsyncSession" if is_async else "Connection or Session"
        colour = "async def" if is_async else "def"
        problem = f"{owner}: it is an `{colour}` and asks for {_name(wrong[0])}; let it ask for {right}"
        raise UnsatisfiedInjectionError(problems=[problem])
    return Signature(
        payload=hints.get(first.name),
        returns=hints.get("return"),
        wants=wants,
        is_async=is_async,
        transaction=asked[0] if asked else None,
    )


def function_of(handler: Callable[..., object]) -> Callable[..., object]:
    """Return the function that ``handler`` is, stands for as a partial or a decorator's object, or has as an object."""
    wrapped: object = getattr(handler, "__wrapped__", None)
    if isinstance(handler, partial):
        return function_of(cast("partial[object]", handler).func)
    if callable(wrapped) and not inspect.isroutine(handler):
        return function_of(wrapped)
    return _called(handler)


def _given_to(handler: Callable[..., object]) -> Mapping[str, object]:
    """Return the keyword arguments that a partial brings along."""
    return cast("partial[object]", handler).keywords if isinstance(handler, partial) else {}


def _called(handler: Callable[..., object]) -> Callable[..., object]:
    """Return what runs when ``handler`` is called: its colour is what counts, whatever a decorator's object wraps."""
    if isinstance(handler, partial):
        return _called(cast("partial[object]", handler).func)
    if inspect.isroutine(handler) or inspect.isclass(handler):
        return handler
    call: Callable[..., object] = getattr(handler, "__call__")  # noqa: B004, B009 - of an object, whose type is not known
    return call


def _name(kind: object) -> str:
    return getattr(kind, "__qualname__", str(kind))


Handler: TypeAlias = Callable[..., object | Awaitable[object]]
