"""Numbered messages that a store keeps: in its outbox, or in the table of published records."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import BigInteger, Executable, String, Table, bindparam, select

from pillarbox.message import Message, Number, number_of
from pillarbox.ordering import Kept
from pillarbox.relational.rows import message_of, record_message_columns
from pillarbox.relational.tables import outbox, outbox_published
from pillarbox.transaction import Execute, Program, TransactionSource

AT_ONCE = 500
EPOCHS = 4
"""So many epochs of a line are thought to have a number in common; more only take more calls."""


def _kept_in(table: Table) -> Executable:
    """Return the select of a line's records by number; without an index of its own, since gaps are rare."""
    return (
        select(*record_message_columns(table))
        .where(
            table.c.destination == bindparam("of_destination", type_=String),
            table.c.message_key == bindparam("of_key", type_=table.c.message_key.type),
            table.c.key_sequence.between(
                bindparam("first_number", type_=BigInteger), bindparam("last_number", type_=BigInteger)
            ),
        )
        .order_by(table.c.key_sequence)
        .limit(bindparam("up_to", type_=BigInteger))
    )


PLACES = (_kept_in(outbox), _kept_in(outbox_published))  # in the order in which a record comes through them


class StoreKept(Kept):
    """What the producers of one store have published, as far as its relays keep it."""

    def __init__(self, source: TransactionSource, *, let_go: Callable[[], Awaitable[None]] | None = None) -> None:
        """Look into ``source``; ``let_go`` ends its connections after each look."""
        self._source = source
        self._let_go = let_go

    async def fetch(self, destination: str, key: str, *, first: Number, last: int) -> Sequence[Message]:
        """Select from both tables: what is pending was committed, too."""
        try:
            return await self._source.run(fetching(destination, key, first=first, last=last))
        finally:
            if self._let_go is not None:
                await self._let_go()


def fetching(destination: str, key: str, *, first: Number, last: int) -> Program[Sequence[Message]]:
    """Return a line's messages by number; what moves from one table to the other meanwhile is in one of them."""
    asked = {
        "of_destination": destination,
        "of_key": key,
        "first_number": first.number,
        "last_number": last,
        "up_to": AT_ONCE * EPOCHS,
    }
    found: dict[Number, Message] = {}
    for place in PLACES:
        for row in (yield Execute(place, asked)):
            message = message_of(row)
            number = number_of(message)
            if number is not None and number.epoch == first.epoch:
                found[number] = message
    return [found[number] for number in sorted(found)][:AT_ONCE]
