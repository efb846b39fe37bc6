"""Looks for what did not come: in every process that runs the box, and each finding is told of by one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from pillarbox.flow.policy import FlowInstance, Missing, judge, looked_at
from pillarbox.observe import FlowStuck, Observer
from pillarbox.rounds import Rounds

if TYPE_CHECKING:
    from pillarbox.clock import Clock
    from pillarbox.flow.flows import Flows

SLOWEST, FASTEST = timedelta(seconds=5), timedelta(milliseconds=100)
"""How often it looks, at least and at most: ten times within the shortest of the flows' times."""
GRACE = timedelta(seconds=10)
"""A process that starts reads first what came meanwhile, for the shortest of the flows' times, or so long at most."""
PURGE_EVERY = LOOK_ASIDE_EVERY = timedelta(minutes=1)
AT_ONCE = 50
REMOVED_AT_ONCE = 1000


class FlowWatch(Rounds):
    """Tells of each process of which something did not come in time.

    Any number of them may look at once: whoever writes the finding first tells of it.
    """

    def __init__(self, flows: Flows, *, clock: Clock, observer: Observer, keep: timedelta) -> None:
        """Watch the flows that are declared; what is over is kept for ``keep``."""
        shortest = min(flow.shortest for flow in flows.declared)
        super().__init__(
            "flow watch",
            every=max(min(shortest / 10, SLOWEST), FASTEST),
            first_after=min(shortest, GRACE),
            clock=clock,
            observer=observer,
        )
        self._known = flows
        self._flows = {flow.identity: flow for flow in flows.declared}
        self._ports = flows.ports
        self._source = flows.source
        self._keep = keep
        self._purge_at = clock.monotonic()
        self._looked_aside: dict[frozenset[str], float] = {}

    async def round(self) -> None:
        """Look, and now and then purge."""
        await self.look()
        if self._clock.monotonic() >= self._purge_at:
            self._purge_at = self._clock.monotonic() + PURGE_EVERY.total_seconds()
            await self.purge()

    async def look(self) -> None:
        """Judge every process that is due, and tell of what is new.

        Raises:
            TransientError, ConflictError: the database was away or asked for another try; what is left stays due.
        """
        while not self._stopping:
            now, due = await self._source.run(self._ports.instances.due(sorted(self._flows), limit=AT_ONCE))
            if not due:
                return
            graph = await self._known.known()
            found = await self._source.run(self._ports.journal.messages({one.correlation_id for one in due}))
            for one in due:
                messages = [message for message in found if message.correlation_id == one.correlation_id]
                judgement = judge(one, messages, self._flows[one.flow], graph, now)
                aside = self._may_look_aside(judgement.missing)
                missing = await self._known.reasons.explain(judgement.missing, messages, looks_aside=aside)
                changed, new = looked_at(one, replace(judgement, missing=missing), now)
                if await self._source.run(self._ports.instances.change(changed)) and new:
                    self._tell(one, new)
            if len(due) < AT_ONCE:
                return

    async def purge(self) -> None:
        """Remove what was over long ago, batch by batch.

        Raises:
            TransientError, ConflictError: as with ``look``.
        """
        for remove in (self._ports.instances.purge, self._ports.journal.purge):
            while await self._source.run(remove(self._keep, limit=REMOVED_AT_ONCE)) == REMOVED_AT_ONCE:
                if self._stopping:
                    return

    def _may_look_aside(self, missing: Sequence[Missing]) -> bool:
        """Tell whether to look for commands that wait or are dead: when many processes are stuck, for the first."""
        ways = frozenset(name for one in missing for name in one.by_way_of)
        now = self._clock.monotonic()
        if not ways or now - self._looked_aside.get(ways, float("-inf")) < LOOK_ASIDE_EVERY.total_seconds():
            return False
        self._looked_aside[ways] = now
        return True

    def _tell(self, instance: FlowInstance, new: Sequence[Missing]) -> None:
        first = next((one for one in new if one.after is not None), new[0])
        self._observer.notice(
            FlowStuck(
                flow=instance.flow,
                correlation_id=instance.correlation_id,
                culprit=first.culprit,
                missing=tuple(str(one) for one in new),
            )
        )
