"""Keeps one owner's leases alive from the loop that does the work, and says when to stop."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from pillarbox.lease.lease import LeaseTerms, Tenancy

if TYPE_CHECKING:
    from pillarbox.clock import Clock
    from pillarbox.lease.store import LeaseStore
    from pillarbox.transaction import TransactionSource


class LeaseKeeper:
    """One owner's hold on the slots of a scope.

    The loop that works calls ``keep`` between batches, so that a wedged loop loses its leases. An owner counts on its
    leases for two thirds of their time only, by its own monotonic clock counted from *before* the renewal was asked.
    """

    def __init__(
        self, terms: LeaseTerms, owner: str, *, store: LeaseStore, source: TransactionSource, clock: Clock
    ) -> None:
        """Hold nothing yet; ``owner`` must be new for each start of a process."""
        self.terms = terms
        self.owner = owner
        self._store = store
        self.source = source
        self.clock = clock
        self._tenancy = Tenancy(tokens={}, share=0)
        self._renew_at = float("-inf")
        self._trusted_until = float("-inf")

    @property
    def tokens(self) -> Mapping[int, int]:
        """The token of each slot that may be worked on now; empty once two thirds of the lease are over."""
        return self._tenancy.tokens if self.clock.monotonic() < self._trusted_until else {}

    @property
    def surplus(self) -> tuple[int, ...]:
        """The slots held beyond the fair share, to be given back when they are drained."""
        extra = len(self._tenancy.tokens) - self._tenancy.share
        return tuple(sorted(self._tenancy.tokens)[-extra:]) if extra > 0 else ()

    @property
    def due_in(self) -> timedelta:
        """How long until the next renewal; whoever waits for work waits no longer, however short the lease."""
        return timedelta(seconds=max(self._renew_at - self.clock.monotonic(), 0.0))

    async def keep(self) -> None:
        """Renew when a third of the lease is over, and take free slots up to the fair share."""
        asked_at = self.clock.monotonic()
        if asked_at < self._renew_at:
            return
        self._tenancy = await self.source.run(self._store.heartbeat(self.terms, self.owner))
        ttl_s = self.terms.ttl.total_seconds()
        self._renew_at = asked_at + ttl_s / 3
        self._trusted_until = asked_at + ttl_s * 2 / 3

    async def give_back(self, slots: Collection[int]) -> None:
        """Release ``slots``; the caller has drained them."""
        if not slots:
            return
        await self.source.run(self._store.release(self.terms, self.owner, sorted(slots)))
        kept = {slot: token for slot, token in self._tenancy.tokens.items() if slot not in slots}
        self._tenancy = Tenancy(tokens=kept, share=self._tenancy.share)

    async def leave(self) -> None:
        """Give everything back, so that others need not wait for the lease to expire; ``keep`` joins again."""
        self._tenancy = Tenancy(tokens={}, share=0)
        self._renew_at = float("-inf")
        await self.source.run(self._store.leave(self.terms, self.owner))
