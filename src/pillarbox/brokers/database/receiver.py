"""Receives from the queue tables: leased slots, read in position order from the oldest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from pillarbox.channel import OUT_OF_A_PLACE, Delivery, Outcome, Subscription, TransactionalReceiver, is_queue
from pillarbox.channel.wakeup import Pace
from pillarbox.errors import LeaseLostError

if TYPE_CHECKING:
    from pillarbox.channel import QueuedMessage, QueueStore
    from pillarbox.channel.wakeup import Wakeup
    from pillarbox.lease import LeaseKeeper
    from pillarbox.transaction import Program

SHORTEST_POLL = timedelta(milliseconds=5)
LONGEST_POLL = timedelta(milliseconds=100)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a delivery lies, and under which lease it was read."""

    position: int
    slot: int
    token: int


class DatabaseReceiver(TransactionalReceiver):
    """One instance's share of a consumer's messages."""

    def __init__(
        self,
        subscription: Subscription,
        *,
        queue: QueueStore,
        keeper: LeaseKeeper,
        wakeup: Wakeup,
    ) -> None:
        """Receive for ``subscription`` what lies in the slots of ``keeper``."""
        self._subscription = subscription
        self._one_place = len({channel if is_queue(channel) else "topics" for channel in subscription.channels}) == 1
        self._queue = queue
        self._source = keeper.source
        self._clock = keeper.clock
        self._wakeup = wakeup
        self._keeper = keeper
        self._pace = Pace(shortest=SHORTEST_POLL, longest=LONGEST_POLL)
        self._stopping = False
        self._unsettled: dict[int, int] = {}
        """Position → slot of what was handed out."""

    async def receive(self, limit: int, *, within: timedelta) -> Sequence[Delivery]:
        """Renew the leases, then poll until something is there or the time is over."""
        deadline = self._clock.monotonic() + within.total_seconds()
        while True:
            await self._keep_leases()
            if limit and (deliveries := await self._read(limit)):
                self._pace.found_work()
                return deliveries
            left = timedelta(seconds=deadline - self._clock.monotonic())
            if left <= timedelta(0) or self._stopping:
                return ()
            if await self._wakeup.wait(self._clock, min(left, self._pace.pause())):
                self._pace.found_work()

    def stop(self) -> None:
        """Leave the wait."""
        self._stopping = True
        self._wakeup.ring()

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """Forget what was accepted within its transaction, or hand out again what is returned."""
        out = Counter(self._unsettled.values())
        for delivery in deliveries:
            self._unsettled.pop(_receipt(delivery).position, None)
        if max(out.values(), default=0) >= OUT_OF_A_PLACE:
            self._wakeup.ring()  # of that slot there may be more

    def accept_within(self, deliveries: Sequence[Delivery]) -> Program[None]:
        """Remove the rows, if their slots are still leased under the tokens they were read with."""
        receipts = [_receipt(delivery) for delivery in deliveries]
        tokens = sorted({receipt.token for receipt in receipts})
        positions = [receipt.position for receipt in receipts]
        removed = yield from self._queue.accept(self._keeper.terms.scope, tokens, positions)
        if removed < len(positions):
            raise LeaseLostError(lease=self._keeper.terms.scope, token=tokens[0])

    async def close(self) -> None:
        """Give the slots back."""
        self._unsettled.clear()
        await self._keeper.leave()

    async def _keep_leases(self) -> None:
        await self._keeper.keep()
        drained = set(self._keeper.surplus) - set(self._unsettled.values())
        await self._keeper.give_back(drained)

    async def _read(self, limit: int) -> Sequence[Delivery]:
        tokens = self._keeper.tokens
        surplus = set(self._keeper.surplus)
        slots = [slot for slot in sorted(tokens) if slot not in surplus]
        if not slots:
            return ()
        out = Counter(self._unsettled.values())
        messages: list[QueuedMessage] = []
        for some in _lightest_first(slots, out):
            if some and len(messages) < limit:
                found = await self._read_slots(some, limit - len(messages))
                messages += _as_many_as_may_be_out(found, out)
        self._unsettled |= {message.position: message.slot for message in messages}
        return [
            Delivery(
                message=message.message,
                receipt=Receipt(position=message.position, slot=message.slot, token=tokens[message.slot]),
            )
            for message in messages
        ]

    async def _read_slots(self, slots: Sequence[int], limit: int) -> Sequence[QueuedMessage]:
        program = self._queue.read(self._subscription, slots=slots, leave_out=sorted(self._unsettled), limit=limit)
        return await (self._source.run_single(program) if self._one_place else self._source.run(program))


def _lightest_first(slots: Sequence[int], out: Mapping[int, int]) -> Sequence[Sequence[int]]:
    """Return the slots of which little is out, then those of which more is; those of which enough is are left out."""
    light = [slot for slot in slots if out.get(slot, 0) < OUT_OF_A_PLACE // 2]
    heavy = [slot for slot in slots if OUT_OF_A_PLACE // 2 <= out.get(slot, 0) < OUT_OF_A_PLACE]
    return light, heavy


def _as_many_as_may_be_out(messages: Sequence[QueuedMessage], out: Counter[int]) -> Iterator[QueuedMessage]:
    """Return the first of each slot, and count them among what is ``out``."""
    for message in messages:
        if out[message.slot] < OUT_OF_A_PLACE:
            out[message.slot] += 1
            yield message


def _receipt(delivery: Delivery) -> Receipt:
    receipt = delivery.receipt
    assert isinstance(receipt, Receipt), receipt
    return receipt
