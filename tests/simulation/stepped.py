"""A store whose every statement and commit waits for permission."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from pillarbox.relational import RelationalStore
from pillarbox.relational.silence import Patience
from pillarbox.relational.store import OwnTransaction
from pillarbox.transaction import Execute, Program, Rows
from pillarbox.transaction.program import drive

T = TypeVar("T")

Step = Callable[[str], Awaitable[None]]
COMMIT, COMMITTED = "COMMIT", "-- the commit is done, its answer on the way"


@lru_cache(maxsize=1000)
def _text_of(statement: object) -> str:
    """The SQL of a statement; most are the same objects again and again."""
    return str(statement)


class SteppedTransaction(OwnTransaction):
    """A transaction that asks before each statement of a program."""

    def __init__(self, inner: OwnTransaction, step: Step) -> None:
        super().__init__(inner.connection, Patience("stepped", None))
        self._inner = inner
        self._step = step
        self.statements: list[str] = []

    async def run(self, program: Program[T]) -> T:
        return await drive(program, self._execute)

    async def _execute(self, wanted: Execute) -> Rows:
        text = _text_of(wanted.statement)
        self.statements.append(text)
        await self._step(text)
        return await self._inner.run(_of_one(wanted))


class SteppedStore(RelationalStore):
    """The store of one actor, or of one process that may end at any step."""

    def __init__(self, store: RelationalStore, step: Step) -> None:
        """Reach the database of ``store``, asking ``step`` before each statement and on both sides of each commit."""
        vars(self).update(vars(store), _owns_engine=False)  # its ports, those that its kind of database needs
        self._store = store
        self._step = step

    @asynccontextmanager
    async def begin(self, *, shared: bool = False) -> AsyncGenerator[OwnTransaction]:
        async with self._store.begin(shared=shared) as transaction:
            stepped = SteppedTransaction(transaction, self._step)
            yield stepped
            await self._step("; ".join([COMMIT, *stepped.statements]))
        await self._step(COMMITTED)

    async def run(self, program: Program[T]) -> T:
        try:
            async with self.begin() as transaction:
                return await transaction.run(program)
        except DBAPIError as error:
            raise self.translate(error) from error

    async def run_single(self, program: Program[T]) -> T:
        return await self.run(program)


def _of_one(wanted: Execute) -> Program[Rows]:
    return (yield wanted)
