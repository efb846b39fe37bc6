"""Handlers without a transaction: a claim is committed first, the outcome right after the call.

At least once: a process that ends in between leaves the claim in doubt, and the message is handled again with the same
idempotency key.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pillarbox.consumer.books import Books
from pillarbox.consumer.context import Context
from pillarbox.consumer.injection import Providers
from pillarbox.consumer.intake import Intake
from pillarbox.consumer.item import Item
from pillarbox.consumer.run import Invoke, Raised, Returned, Run, RunReport
from pillarbox.consumer.spec import Consumer
from pillarbox.consumer.surroundings import Surroundings
from pillarbox.outbox import OutboxRecord
from pillarbox.retry import RetryNow
from pillarbox.transaction import Program

if TYPE_CHECKING:
    from pillarbox.idempotency import ClaimStore
    from pillarbox.ordering import RunSize

CLAIM_TTL = timedelta(seconds=30)
LOOK_AGAIN = timedelta(milliseconds=50)
"""How often a claim that somebody else holds is looked at."""

Entry: TypeAlias = Literal["claimed", "busy", "closed"]


class OutsideProcess:
    """Handles messages one at a time: claim, call, outcome."""

    def __init__(
        self,
        run: Run,
        *,
        caller: Caller,
        claims: ClaimStore,
        around: Surroundings,
    ) -> None:
        """Judge by the rules of ``run``; invoke through ``caller``."""
        self._run = run
        self._caller = caller
        self._claims = claims
        self._source = around.source
        self._books = Books(run, around)
        self._clock = around.clock
        self._new_token = around.new_token
        self._name = run.rules.consumer

    async def handle(self, items: Sequence[Item], *, intake: Intake, size: RunSize) -> int:
        """Bring every one of ``items`` to a durable outcome; return how many messages were published.

        Raises:
            LeaseLostError: the messages belong to another process by now.
            TransientError: the database is away; those without an outcome must be delivered again.
        """
        published = 0
        stopped = frozenset[str]()
        suspects = await self._books.suspects(items)
        for item in items:
            report = RunReport()
            if item.hold_key in stopped:
                report.behind.append(item)
                await self._source.run(self._run.close([item], intake, report, ()))
            else:
                if item.message.id in suspects:
                    await self._books.try_alone(item)
                await self._one(item, intake, report)
            stopped |= self._run.stopped_by(report)
            published += report.published
            self._books.tell(report)
        return published

    async def _one(self, item: Item, intake: Intake, report: RunReport) -> None:
        token = self._new_token()
        while (entry := await self._source.run(self._enter(item, intake, report, token))) == "busy":
            await self._clock.sleep(LOOK_AGAIN)
        if entry == "closed":
            return
        async with self._kept(item, token):
            records = await self._attempt(item)
        await self._source.run(self._leave(item, intake, report, records, token))

    async def _attempt(self, item: Item) -> Sequence[OutboxRecord] | None:
        """Invoke until the handler returns or its immediate attempts are over; ``None`` if the item must wait."""
        while item.verdict is None and (wish := self._run.wish(item)) is not None:
            answer = await self._caller.call(wish)
            if isinstance(answer, Returned):
                answer = self._run.noted(wish.context, answer)
            if isinstance(answer, Returned):
                return wish.context.records
            verdict = self._run.judge(item, answer.error)
            if verdict is not None and not isinstance(verdict, RetryNow):
                item.verdict = verdict
        return None

    def _enter(self, item: Item, intake: Intake, report: RunReport, token: str) -> Program[Entry]:
        """Claim the message, or close it if there is nothing to do."""
        if not (yield from intake.admit([item])):
            report.behind.append(item)
            yield from self._run.rules.attempts.clear(self._name, [item.message.id])
            yield from intake.accept([item], [])
            return "closed"
        if not self._run.rules.handles(item.message):
            report.discarded.append(item)
        elif (yield from self._claims.claim(self._name, [item.message.id], token=token, ttl=CLAIM_TTL)):
            return "claimed"
        elif (yield from self._claims.processed(self._name, [item.message.id])):
            report.suppressed.append(item)
        else:
            return "busy"
        yield from self._run.close([item], intake, report, ())
        return "closed"

    def _leave(
        self,
        item: Item,
        intake: Intake,
        report: RunReport,
        records: Sequence[OutboxRecord] | None,
        token: str,
    ) -> Program[None]:
        """Write the outcome and give the claim up, in one transaction."""
        rules = self._run.rules
        if records is None:
            self._run.put_aside(item, report)
        elif not rules.deduplicates or (yield from rules.inbox.record(self._name, [item.message.id])):
            report.handled.append(item)
        else:
            report.suppressed.append(item)
        yield from self._run.close([item], intake, report, (records or ()) if report.handled else ())
        yield from self._claims.release(self._name, [item.message.id], token=token)

    @asynccontextmanager
    async def _kept(self, item: Item, token: str) -> AsyncGenerator[None]:
        """Extend the claim for as long as the handler takes."""
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(self._keep(item.message.id, token))
            try:
                yield
            finally:
                keeping.cancel()

    async def _keep(self, message_id: str, token: str) -> None:
        while True:
            await self._clock.sleep(CLAIM_TTL / 3)
            await self._source.run(self._claims.claim(self._name, [message_id], token=token, ttl=CLAIM_TTL))


class Caller:
    """Invokes a handler that has no transaction, in a thread if it is a plain function."""

    def __init__(self, consumer: Consumer, *, providers: Providers) -> None:
        """Invoke the handler of ``consumer``."""
        self._consumer = consumer
        self._providers = providers

    async def call(self, wish: Invoke) -> Returned | Raised:
        """Invoke it and report what came of it."""
        timeout = self._consumer.options.timeout
        try:
            async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
                return Returned(await self._call(wish))
        except Exception as error:
            return Raised(error, touched=False)

    async def _call(self, wish: Invoke) -> object:
        given: dict[str, object] = {
            name: wish.context if kind is Context else await self._providers.get(kind)
            for name, kind in self._consumer.signature.wants.items()
        }
        if self._consumer.signature.is_async:
            value: Any = self._consumer.handler(wish.payload, **given)
            return await value
        return await asyncio.to_thread(self._consumer.handler, wish.payload, **given)
