"""All the partitions of a subscription, and which of them this instance may read now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Generic, TypeVar

from pillarbox.brokers.partitions.leases import PARTITIONS
from pillarbox.brokers.partitions.share import Share, receipt_of
from pillarbox.channel import Delivery, Subscription
from pillarbox.lease import repeated

if TYPE_CHECKING:
    from pillarbox.lease import LeaseKeeper

SomeShare = TypeVar("SomeShare", bound=Share)


class Shares(Generic[SomeShare]):
    """The shares of a subscription by their names, and the leases under which they are read."""

    def __init__(
        self,
        subscription: Subscription,
        keeper: LeaseKeeper,
        *,
        make: Callable[[str, int], SomeShare],
        beside: Sequence[SomeShare] = (),
    ) -> None:
        """Have a share of every partition; ``make`` makes it from a channel and a partition's number.

        Shares ``beside`` these are read by whoever leases the partition that they name.
        """
        self._keeper = keeper
        made = [make(channel, partition) for channel in subscription.channels for partition in range(PARTITIONS)]
        self._shares: Mapping[str, SomeShare] = {share.name: share for share in (*made, *beside)}

    def __getitem__(self, name: str) -> SomeShare:
        return self._shares[name]

    def __iter__(self) -> Iterator[SomeShare]:
        return iter(self._shares.values())

    async def keep(self, *, give_up: Callable[[Sequence[SomeShare]], Awaitable[None]] | None = None) -> list[SomeShare]:
        """Renew the leases and return what may be read now; what lies in others is forgotten.

        What is beyond the fair share is read no more, and given back once nothing of it is out; ``give_up`` is told of
        it before.

        Raises:
            TransientError: the database is away.
        """
        await self._keeper.keep()
        surplus = set(self._keeper.surplus)
        if surplus and give_up is not None:
            held = self._keeper.tokens
            leaving = [share for share in self if share.partition in surplus]
            await give_up([share for share in leaving if share.token in (None, held.get(share.partition))])
        tokens = self._keeper.tokens
        busy: set[int] = set()
        mine: list[SomeShare] = []
        for share in self:
            token = tokens.get(share.partition)
            if share.token is not None and share.token != token:
                share.forget()
            if token is not None and share.partition not in surplus:
                mine.append(share)
            elif share.out:
                share.lay_aside()
                busy.add(share.partition)
            else:
                share.forget()
        await self._keeper.give_back(surplus - busy)
        return mine

    def still_ours(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Return those of ``deliveries`` that were not lost since they were handed out; let go of the others."""
        return [one for one in deliveries if self._shares[receipt_of(one).place].still_has(one)]

    def gained(self, mine: Sequence[SomeShare]) -> dict[str, int]:
        """Return the tokens of those of ``mine`` whose pending messages have still to be read, by their names."""
        tokens = self._keeper.tokens
        return {
            share.name: tokens[share.partition] for share in mine if share.token is None and share.partition in tokens
        }

    def renewed(self) -> AbstractAsyncContextManager[None]:
        """Keep the leases during the block: what is gained may take longer to read than a lease lasts."""
        return repeated(self._keeper.keep, every=self._keeper.terms.ttl / 6, clock=self._keeper.clock)

    async def leave(self) -> None:
        """Forget everything and give the leases back."""
        for share in self:
            share.forget()
        await self._keeper.leave()
