"""Declares handlers, without a box: each module of a program keeps its own and the box includes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from inspect import isroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from pillarbox.consumer.spec import ConsumerOptions, Declaration, DedupeBy, Idempotency, WhenDead
from pillarbox.errors import ConfigurationError
from pillarbox.ordering import Ordering
from pillarbox.retry import FailureRule, Retry

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
M = TypeVar("M")


class Options(TypedDict, total=False):
    """What can be said about a consumer; see ``ConsumerOptions``."""

    name: str | None
    retry: Retry
    ordering: Ordering
    when_dead: WhenDead | None
    idempotency: Idempotency | None
    concurrency: int | None
    timeout: timedelta | None
    outside: bool
    renamed_from: str | None
    channel: str | None
    needs: str | None
    failures: Sequence[FailureRule]
    dedupe_by: DedupeBy | None
    publishes: Sequence[type[Any]]


class HandlesMessage(Protocol[M]):
    """A decorator for handlers of one or more message types; it returns the handler as it is."""

    def __call__(self, handler: Callable[Concatenate[M, P], R], /) -> Callable[Concatenate[M, P], R]:
        """Declare ``handler``."""
        ...


class Declaring(ABC):
    """What handlers can be declared on."""

    @overload
    def on(self, a: type[A], /, *, batch: int, **options: Unpack[Options]) -> HandlesMessage[list[A]]: ...
    @overload
    def on(
        self, a: type[A], b: type[B], /, *, batch: int, **options: Unpack[Options]
    ) -> HandlesMessage[list[A | B]]: ...
    @overload
    def on(
        self, a: type[A], b: type[B], c: type[C], /, *, batch: int, **options: Unpack[Options]
    ) -> HandlesMessage[list[A | B | C]]: ...
    @overload
    def on(
        self, a: type[A], b: type[B], c: type[C], d: type[D], /, *, batch: int, **options: Unpack[Options]
    ) -> HandlesMessage[list[A | B | C | D]]: ...
    @overload
    def on(self, a: type[A], /, **options: Unpack[Options]) -> HandlesMessage[A]: ...
    @overload
    def on(self, a: type[A], b: type[B], /, **options: Unpack[Options]) -> HandlesMessage[A | B]: ...
    @overload
    def on(self, a: type[A], b: type[B], c: type[C], /, **options: Unpack[Options]) -> HandlesMessage[A | B | C]: ...
    @overload
    def on(
        self, a: type[A], b: type[B], c: type[C], d: type[D], /, **options: Unpack[Options]
    ) -> HandlesMessage[A | B | C | D]: ...
    def on(self, *types: type[Any], batch: int | None = None, **options: Unpack[Options]) -> Any:
        """Declare the decorated function as a consumer of ``types``.

        The payload is its first argument, or a list of up to ``batch`` payloads; every other parameter is injected by
        its annotation. The function is returned as it is and can be called as before.

        Raises:
            ConfigurationError: it stands above the function without its types; nothing would be declared.
        """
        if len(types) == 1 and isroutine(types[0]):
            raise ConfigurationError(
                f"{types[0].__module__}.{types[0].__qualname__}: name the message types that it handles, "
                "as in on(OrderPlaced)"
            )

        def declare(handler: Callable[..., object]) -> Callable[..., object]:
            self._declare(handler, types, batch, options)
            return handler

        return declare

    @abstractmethod
    def _declare(
        self, handler: Callable[..., object], types: tuple[type[Any], ...], batch: int | None, options: Options
    ) -> None: ...


class Handlers(Declaring):
    """Handlers with shared defaults.

    EIP: *Service Activator*.
    """

    def __init__(self, **defaults: Unpack[Options]) -> None:
        """Use ``defaults`` for every handler that does not say otherwise."""
        self._defaults = ConsumerOptions(**defaults)
        self.declarations: list[Declaration] = []
        self.heard_by = 0
        """How many boxes are running with them."""

    def check_can_be_heard(self) -> None:
        """Refuse to declare while a box runs.

        Raises:
            ConfigurationError: one does.
        """
        if self.heard_by:
            raise ConfigurationError(
                "the box is running: what is declared now would not be heard before it starts anew; declare it before"
            )

    def _declare(
        self, handler: Callable[..., object], types: tuple[type[Any], ...], batch: int | None, options: Options
    ) -> None:
        self.check_can_be_heard()
        said = replace(self._defaults, batch=batch, **options)
        self.declarations.append(Declaration(handler=handler, types=types, options=said))
