"""Replays of many letters, as an operator asks for them and follows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from pillarbox.audit import Act, checked
from pillarbox.deadletter.decisions import Ports
from pillarbox.deadletter.record import DeadLetterState
from pillarbox.deadletter.runs import ItemState, ReplayRun, ReplayTerms, RunState
from pillarbox.deadletter.store import DeadLetterFilter
from pillarbox.errors import ConflictError, NotFoundError
from pillarbox.errors.values import check_limit
from pillarbox.message import new_message_id
from pillarbox.transaction import Program, TransactionSource

RUN = "replay run"
REPLAY_ALL = "replay-all"


class Replays:
    """The part of the dead letter office that replays many letters."""

    def __init__(self, *, ports: Ports, source: TransactionSource, replay_within: timedelta | None) -> None:
        """Work through ``ports``; letters that failed longer ago than ``replay_within`` are replayed by force only."""
        self._ports = ports
        self._source = source
        self._replay_within = replay_within

    async def replay_all(
        self,
        where: DeadLetterFilter,
        *,
        by: str,
        rate: int | None = None,
        canary: int = 0,
        stop_at: float | None = None,
        dry_run: bool = False,
        force: bool = False,
    ) -> ReplayRun:
        """Have all dead letters that match now replayed, each for the consumer that could not handle it.

        The set is frozen and stored; a running box works it off, and any other one goes on if that ends. Each letter
        is replayed once, also where two operators ask for the same. A key whose dead letter held it keeps its order.

        Args:
            where: which letters; its state does not count, only dead ones are replayed.
            by: who asks for it.
            rate: letters a second; left out: as fast as the database goes.
            canary: replay so many first, and go on only when these have been handled.
            stop_at: the share of failures, from 0 to 1, above which the run stops; a canary alone allows none.
            dry_run: change nothing; the run that is returned has no name, and says how many letters would be replayed
                (pending) and how many would not without ``force`` (passed).
            force: also letters that were replayed too often, or failed too long ago.
        """
        checked(by=by)
        wanted = replace(where, state=DeadLetterState.DEAD)
        terms = ReplayTerms(rate=rate, canary=canary, stop_at=stop_at, force=force, within=self._replay_within)
        if dry_run:
            return _unmade(wanted, terms, by, await self._source.run(self._ports.runs.survey(wanted, terms)))
        return await self._source.run(self._create(wanted, terms, by))

    async def run(self, run_id: str) -> ReplayRun:
        """Return a replay run and how far it has come.

        Raises:
            NotFoundError: there is no such run.
        """
        return await self._source.run(self._get(run_id))

    async def runs(self, state: RunState | None = None, *, limit: int = 20) -> tuple[ReplayRun, ...]:
        """Return the replay runs made last, latest first."""
        check_limit(limit)
        ids = await self._source.run(self._ports.runs.find(state, limit=limit))
        return tuple([await self.run(one) for one in ids])

    async def cancel(self, run_id: str, *, by: str, reason: str) -> ReplayRun:
        """End an open run: what is enqueued is still handled, what is pending stays dead.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: it has ended already; nothing was changed.
        """
        checked(by=by, reason=reason)
        return await self._source.run(self._cancel(run_id, by, reason))

    def _create(self, wanted: DeadLetterFilter, terms: ReplayTerms, by: str) -> Program[ReplayRun]:
        run_id = new_message_id()
        count = yield from self._ports.runs.create(run_id, wanted, terms, by=by)
        details = {"letters": count, "wanted": wanted, "terms": terms}
        yield from self._ports.acts.record(Act(by=by, what=REPLAY_ALL, kind=RUN, subject=run_id, details=details))
        return (yield from self._get(run_id))

    def _get(self, run_id: str) -> Program[ReplayRun]:
        run = yield from self._ports.runs.get(run_id)
        if run is None:
            raise NotFoundError(kind=RUN, identifier=run_id)
        return run

    def _cancel(self, run_id: str, by: str, reason: str) -> Program[ReplayRun]:
        run = yield from self._get(run_id)
        if not (yield from self._ports.runs.end(run_id, state=RunState.CANCELLED, because=f"by {by}: {reason}")):
            raise ConflictError(f"replay run {run_id} is {run.state}; only an open one can be cancelled")
        yield from self._ports.acts.record(Act(by=by, what="cancel", kind=RUN, subject=run_id, reason=reason))
        return (yield from self._get(run_id))


def _unmade(wanted: DeadLetterFilter, terms: ReplayTerms, by: str, items: Mapping[ItemState, int]) -> ReplayRun:
    return ReplayRun(
        id="",
        state=RunState.OPEN,
        wanted=wanted,
        terms=terms,
        by=by,
        created_at=None,
        ended_at=None,
        ended_because="",
        reached=0,
        items=items,
    )
