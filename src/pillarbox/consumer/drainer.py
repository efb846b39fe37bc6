"""Drains the held keys of one consumer, each from its head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial

from pillarbox.channel.wakeup import Pace
from pillarbox.consumer.dependency import Probe
from pillarbox.consumer.intake import Intake
from pillarbox.consumer.item import Item
from pillarbox.consumer.surroundings import Surroundings
from pillarbox.consumer.worker import Handles
from pillarbox.holding import HeldMessage, HeldQueue
from pillarbox.lease import repeated
from pillarbox.ordering import RunSize
from pillarbox.rounds import AT_ONCE, Rounds

KEYS_AT_ONCE = 100
SHORTEST_POLL = timedelta(milliseconds=20)
LONGEST_POLL = timedelta(milliseconds=250)


class Drainer(Rounds):
    """Leases holds that are due, handles their messages in runs, and ends the holds that are empty."""

    def __init__(
        self,
        identity: str,
        *,
        held: HeldQueue,
        process: Handles,
        intake_for: Callable[[str], Intake],
        around: Surroundings,
    ) -> None:
        """Drain the holds of the consumer ``identity``; each round leases under a token of its own."""
        super().__init__(f"{identity} (held)", every=LONGEST_POLL, clock=around.clock, observer=around.observer)
        self._identity = identity
        self._held = held
        self._process = process
        self._intake_for = intake_for
        self._source = around.source
        self._size = RunSize(largest=around.run_size)
        self._lease = around.lease
        self._new_token = around.new_token
        self._on_published = around.on_published
        self._needs = around.needs
        self._pace = Pace(shortest=SHORTEST_POLL, longest=LONGEST_POLL)

    def pause_after(self, found: int | None) -> timedelta:
        """Rest only when nothing was due, ever longer."""
        if not found:
            return self._pace.pause()
        self._pace.found_work()
        return AT_ONCE

    async def round(self) -> bool:
        """Lease, handle and finish once; return whether there was anything due.

        Raises:
            TransientError, ConflictError: the leases end by themselves, then any process may go on.
        """
        await self._needs.look()
        is_shut = self._needs.is_shut
        if is_shut and not self._needs.may_be_probed:
            return False
        token = self._new_token()
        limit = 1 if is_shut else KEYS_AT_ONCE
        if not await self._source.run(self._held.lease_due(self._identity, token=token, limit=limit, ttl=self._lease)):
            return False
        probe = await self._needs.probe() if is_shut else None
        try:
            if probe is not None or not is_shut:
                await self._drain(token, probe)
        finally:
            await self._needs.settle(probe)
        await self._source.run(self._held.finish(self._identity, token=token))
        return probe is not None or not is_shut

    async def _drain(self, token: str, probe: Probe | None) -> None:
        """Handle the heads of the holds leased under ``token``; only the first, if it is a probe."""
        per_key = self._size.size if probe is None else 1
        async with repeated(partial(self._renew, token), every=self._lease / 3, clock=self._clock):
            heads = await self._source.run(self._held.heads(self._identity, token=token, per_key=per_key))
            items = [_item(one) for one in heads]
            for item in items:
                item.probe = probe
            if await self._handle(items, token):
                self._on_published()

    async def _renew(self, token: str) -> None:
        await self._source.run(self._held.renew(self._identity, token=token, ttl=self._lease))

    async def _handle(self, items: Sequence[Item], token: str) -> int:
        published = 0
        intake = self._intake_for(token)
        while items:
            chunk, items = items[: self._size.size], items[self._size.size :]
            published += await self._process.handle(chunk, intake=intake, size=self._size)
            waiting = {item.hold_key for item in chunk if item.verdict is not None}
            if any(item.is_left for item in chunk):
                break
            items = [item for item in items if item.hold_key not in waiting]
        return published


def _item(held: HeldMessage) -> Item:
    return Item(
        message=held.message,
        hold_key=held.hold_key,
        state=held.state,
        attempts=held.attempts,
        history=held.history,
    )
