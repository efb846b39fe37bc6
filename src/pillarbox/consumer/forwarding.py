"""Routes at work: a consumer whose handler forwards copies in the transaction that notes the message as handled."""

from __future__ import annotations

from typing import TypedDict, Unpack

from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox.consumer.context import Context
from pillarbox.consumer.spec import ConsumerOptions, Declaration, WhenDead
from pillarbox.message import Message
from pillarbox.observe import MessageFiltered, MessageRouted
from pillarbox.ordering import Ordering
from pillarbox.routing import Reader, Route, copies_of


class RouteOptions(TypedDict, total=False):
    """What can be said about the consumer that carries out a route; see ``ConsumerOptions``."""

    ordering: Ordering
    when_dead: WhenDead | None
    concurrency: int | None
    renamed_from: str | None


def declaration_of(route: Route, *, service: str, reader: Reader, **options: Unpack[RouteOptions]) -> Declaration:
    """Declare the consumer of ``service`` that carries out ``route``; bodies are read by ``reader``."""
    identity = f"{service}/{route.name}"

    async def forward(message: Message, tx: AsyncConnection, ctx: Context) -> None:  # tx: the copies commit with it
        decision = route.decide(reader.view(message))
        copies = copies_of(message, decision, by=identity)
        if copies:
            destinations = tuple(copy.destination for copy in copies)
            routed = MessageRouted(consumer=identity, message_id=message.id, destinations=destinations)
            ctx.forward(copies, notice=routed)
        else:
            ctx.forward((), notice=MessageFiltered(consumer=identity, message_id=message.id))

    said = ConsumerOptions(name=route.name, **options)
    return Declaration(handler=forward, types=route.types, options=said, route=route)
