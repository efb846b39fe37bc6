"""A semantic lock that is let go between the two looks of who asks for it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete

from pillarbox.relational.saga_tables import saga_locks
from pillarbox.saga.locks import Taken
from pillarbox.saga.store import SagaKey
from pillarbox.transaction import Execute, Program

if TYPE_CHECKING:
    from pillarbox.relational import RelationalStore

MINE, OTHERS = SagaKey("shop/fulfil", "o-1"), SagaKey("shop/return", "o-1")
ROOM, HOUR = "room:1", timedelta(hours=1)


def up_to_here(statement: Execute) -> Program[object]:
    """Execute one statement."""
    return (yield statement)


def the_rest(program: Program[Taken], rows: object) -> Program[Taken]:
    """Go on with ``program``, whose last statement has brought ``rows``."""
    try:
        while True:
            rows = yield program.send(rows)  # type: ignore[arg-type]  # what the transaction has brought
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def test_a_lock_that_is_let_go_while_another_asks_for_it_is_that_one_s(store: RelationalStore) -> None:
    async with store.begin() as tx:
        await tx.connection.execute(delete(saga_locks))
        await tx.run(store.saga_locks.take(MINE, ROOM, expires_after=HOUR))

    async with store.begin() as tx:
        asking = store.saga_locks.take(OTHERS, ROOM, expires_after=HOUR)
        rows = await tx.run(up_to_here(next(asking)))
        async with store.begin() as theirs:
            await theirs.run(store.saga_locks.release([MINE]))
        taken = await tx.run(the_rest(asking, rows))
    async with store.begin() as tx:
        refused = await tx.run(store.saga_locks.take(MINE, ROOM, expires_after=HOUR))

    assert taken == Taken(holder=None, was_held=False)
    assert refused.holder is not None
    assert refused.holder.saga == OTHERS.saga
