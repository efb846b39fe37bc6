"""Wraps the services' handlers: each keeps the demo's books, and suffers what the mischief has in store for it.

The services know nothing of this.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, cast, get_type_hints

from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Context, Handlers
from pillarbox.consumer.spec import Declaration
from pillarbox.demo.ledger import note_effect, note_published
from pillarbox.demo.mischief import CRASH_EXIT_CODE, Fault, FlakyError, Mischief, OnceOnly, PoisonError

BOX_NAME = "demo"
Handle: TypeAlias = Callable[..., Awaitable[object]]


class AboutAnOrder(Protocol):
    """What all messages of the demo have in common."""

    @property
    def order_id(self) -> str:
        """The order that it is about."""
        ...


def instrumented(handlers: Handlers, *, mischief: Mischief, once: OnceOnly) -> Handlers:
    """Return the same handlers, watched and tormented."""
    result = Handlers()
    for declaration in handlers.declarations:
        torment = Torment(declaration.options.name or "", mischief=mischief, once=once)
        result.declarations.append(_wrapped(declaration, torment))
    return result


class Torment:
    """What happens to the messages of one consumer."""

    def __init__(self, consumer: str, *, mischief: Mischief, once: OnceOnly) -> None:
        """Follow ``mischief``."""
        self.consumer = consumer
        self._mischief = mischief
        self._once = once

    def before(self, order_id: str, attempt: int) -> None:
        """Fail before the handler's first statement, if that is planned.

        Raises:
            PoisonError, FlakyError: as planned.
        """
        fault = self._mischief.fault(self.consumer, order_id)
        if fault is Fault.POISON:
            raise PoisonError(f"{self.consumer} cannot make sense of this order")
        if fault is Fault.FLAKY_EARLY and attempt <= self._mischief.failures(self.consumer, order_id):
            raise FlakyError(f"{self.consumer} cannot reach its neighbour")

    def after(self, order_id: str, attempt: int) -> None:
        """Fail when everything is written and nothing is committed, or end the process, if that is planned.

        Raises:
            FlakyError: as planned.
        """
        fault = self._mischief.fault(self.consumer, order_id)
        if fault is Fault.CRASH and self._once.first_time(f"{self.consumer}/{order_id}"):
            os._exit(CRASH_EXIT_CODE)
        if fault is Fault.FLAKY_LATE and attempt <= self._mischief.failures(self.consumer, order_id):
            raise FlakyError(f"{self.consumer} lost its neighbour half-way")


def _wrapped(declaration: Declaration, torment: Torment) -> Declaration:
    handler = cast("Handle", declaration.handler)

    async def handle(message: AboutAnOrder, *, the_context: Context, **given: object) -> object:
        torment.before(message.order_id, the_context.attempt)
        answer = await handler(message, **given)
        tx = next((one for one in given.values() if isinstance(one, AsyncConnection)), None)
        if tx is not None:
            consumer = f"{BOX_NAME}/{torment.consumer}"
            await note_effect(tx, consumer=consumer, order_id=message.order_id, ctx=the_context)
            await note_published(tx, [] if answer is None else [answer], order_id=message.order_id)
        torment.after(message.order_id, the_context.attempt)
        return answer

    _dress(handle, handler)
    return replace(declaration, handler=handle)


def _dress(wrapper: Handle, handler: Handle) -> None:
    """Let ``wrapper`` ask for what ``handler`` asks for, and for its context."""
    hints: Mapping[str, Any] = get_type_hints(handler)
    signature = inspect.signature(handler)
    own = inspect.Parameter("the_context", inspect.Parameter.KEYWORD_ONLY, annotation=Context)
    dressed: Any = wrapper
    dressed.__name__, dressed.__qualname__, dressed.__module__ = (
        handler.__name__,
        handler.__qualname__,
        handler.__module__,
    )
    dressed.__signature__ = signature.replace(parameters=[*signature.parameters.values(), own])
    dressed.__annotations__ = {**hints, "the_context": Context}
