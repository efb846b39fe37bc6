"""Calls the functions of steps: in the transaction of the run, or outside of every transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Session

from pillarbox.consumer import Providers
from pillarbox.consumer.effects import Raised, Returned
from pillarbox.consumer.injection import Signature
from pillarbox.consumer.stray import failure_of, in_thread_of_its_own
from pillarbox.consumer.transact import HandlerWatch, called, called_sync, sync_side
from pillarbox.saga.context import SagaContext


class Invoker:
    """Gives functions of steps what they ask for, and reports what came of them."""

    def __init__(self, providers: Providers) -> None:
        """Provide what ``providers`` have."""
        self._providers = providers

    async def within(
        self,
        function: Callable[..., Any],
        signature: Signature,
        given: tuple[object, ...],
        context: SagaContext,
        *,
        connection: AsyncConnection,
        watch: HandlerWatch,
        timeout: timedelta | None,
    ) -> Returned | Raised:
        """Call ``function`` in the transaction of ``connection``; a plain one too, as if it were in a thread."""
        before, began = watch.statements, sync_side(connection).get_transaction()
        call = self._called(function, signature, given, context, connection)
        try:
            with watch.lent():
                if timeout is None:
                    value = await call
                else:
                    async with asyncio.timeout(timeout.total_seconds()):
                        value = await call
        except (Exception, asyncio.CancelledError) as caught:
            error = failure_of(caught)
            if error is not caught or isinstance(error, TimeoutError):
                await connection.invalidate()  # it may have been cut off in mid-statement
                return Raised(error, touched=True)
            return watch.failed(error, before=before + context.locks.looks, began=began)
        return watch.returned(value, began=began)

    async def outside(
        self,
        function: Callable[..., Any],
        signature: Signature,
        given: tuple[object, ...],
        context: SagaContext,
        *,
        timeout: timedelta | None,
    ) -> Returned | Raised:
        """Call ``function`` with no transaction open; a plain one in a thread."""
        try:
            async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
                others = await self._provided(signature, context)
                if signature.is_async:
                    return Returned(await function(*given, **others))
                return Returned(await in_thread_of_its_own(function, *given, **others))
        except (Exception, asyncio.CancelledError) as caught:
            return Raised(failure_of(caught), touched=False)

    async def _called(
        self,
        function: Callable[..., Any],
        signature: Signature,
        given: tuple[object, ...],
        context: SagaContext,
        connection: AsyncConnection,
    ) -> object:
        asked = partial(_asked, context)
        if signature.is_async:
            wants = signature.wants
            return await called(function, given, wants, asked=asked, providers=self._providers, connection=connection)
        provided = {
            kind: await self._providers.get(kind)
            for kind in signature.wants.values()
            if kind not in (Connection, Session, SagaContext)
        }
        if signature.transaction is None:
            return function(*given, **{name: asked(kind) or provided[kind] for name, kind in signature.wants.items()})

        def call(sync_connection: Connection) -> object:
            return called_sync(
                function, given, signature.wants, asked=asked, provided=provided, connection=sync_connection
            )

        return await connection.run_sync(call)

    async def _provided(self, signature: Signature, context: SagaContext) -> Mapping[str, object]:
        return {
            name: _asked(context, kind) or await self._providers.get(kind) for name, kind in signature.wants.items()
        }


def _asked(context: SagaContext, kind: object) -> object | None:
    return context if kind is SagaContext else None
