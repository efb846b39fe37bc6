"""Sagas as an operator works with them: looking, trying again, skipping, undoing. Needs no definition."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from pillarbox.audit import Act, ActStore, RecordedAct, checked
from pillarbox.errors import ConfigurationError, ConflictError, NotFoundError
from pillarbox.errors.values import check_limit
from pillarbox.saga.happening import Cancelled, Happening, Moment, Retried, Skipped
from pillarbox.saga.journal import SagaStatus, decode_journal
from pillarbox.saga.machine import observe
from pillarbox.saga.replies import looked_at
from pillarbox.saga.shape import UNSHAPED
from pillarbox.saga.store import (
    SagaArchive,
    SagaCount,
    SagaDetails,
    SagaFilter,
    SagaKey,
    SagaStore,
    SagaSummary,
    identity_of,
)
from pillarbox.saga.verbs import refusal_of
from pillarbox.transaction import Program, TransactionSource

KIND = "saga"


class SagaControl:
    """Looks at sagas and decides about them."""

    def __init__(self, *, store: SagaStore, archive: SagaArchive, acts: ActStore, source: TransactionSource) -> None:
        """Work through these ports."""
        self._store = store
        self._archive = archive
        self._acts = acts
        self._source = source

    async def list(
        self,
        saga: str | None = None,
        *,
        status: str | None = None,
        step: str | None = None,
        older_than: timedelta | None = None,
        text: str | None = None,
        limit: int = 100,
    ) -> tuple[SagaSummary, ...]:
        """Return sagas, those changed last first.

        Args:
            saga: the name of a definition, with or without its service.
            status: ``running``, ``compensating``, ``completed``, ``compensated`` or ``needs_attention``.
            step: a step that is under way.
            older_than: started at least so long ago.
            text: occurs in the state or in the history, in upper or lower case.
            limit: how many at most.

        Raises:
            ConfigurationError: there is no such status.
        """
        try:
            wanted = None if status is None else SagaStatus(status)
        except ValueError:
            known = ", ".join(one.value for one in SagaStatus)
            raise ConfigurationError(f"no saga has the status {status!r}; there are {known}") from None
        check_limit(limit)
        asked = SagaFilter(saga=saga, status=wanted, step=step, older_than=older_than, text=text)
        return tuple(await self._source.run(self._archive.find(asked, limit=limit)))

    async def get(self, saga_id: str, *, saga: str | None = None) -> SagaDetails:
        """Return all that is kept of a saga.

        Args:
            saga_id: the id it was started with.
            saga: the name of its definition, where sagas of several definitions bear the id.

        Raises:
            NotFoundError: there is none.
            ConfigurationError: there are several; name the definition.
        """
        found = [
            one
            for one in await self._source.run(self._archive.get(saga_id))
            if saga in (None, one.summary.saga, one.summary.saga.partition("/")[2])
        ]
        if not found:
            raise NotFoundError(kind=KIND, identifier=saga_id)
        if len(found) > 1:
            names = ", ".join(one.summary.saga for one in found)
            raise ConfigurationError(f"several sagas bear the id {saga_id!r}; name one of {names}")
        return found[0]

    async def acts(self, saga_id: str, *, saga: str | None = None) -> tuple[RecordedAct, ...]:
        """Return what operators did about a saga, oldest first.

        Raises:
            NotFoundError, ConfigurationError: as with ``get``.
        """
        summary = (await self.get(saga_id, saga=saga)).summary
        subject = identity_of(SagaKey(summary.saga, saga_id))
        found: list[RecordedAct] = []
        while page := await self._source.run(
            self._acts.find(kind=KIND, subject=subject, after=found[-1].id if found else 0)
        ):
            found += page
        return tuple(found)

    async def counts(self) -> tuple[SagaCount, ...]:
        """Return how many sagas there are, by definition, version and status."""
        return tuple(await self._source.run(self._archive.counts()))

    async def retry(self, saga_id: str, *, reason: str, by: str, saga: str | None = None) -> None:
        """Try again what was given up, or at once what waits for its next attempt.

        What was refused is asked for anew: a participant that refused a command handles the next one, a call has a new
        key, a child is another one. What may have happened is asked for under the same key, and so is every undoing.

        Raises:
            NotFoundError: there is no such saga.
            ConflictError: it has ended, or nothing of it waits for another attempt.
        """
        await self._decide(saga_id, saga, Retried(reason=reason), by=by, reason=reason)

    async def skip(self, saga_id: str, *, step: str, reason: str, by: str, saga: str | None = None) -> None:
        """Count a step, or its undoing, as done: somebody has seen to it in another way.

        A step that counts as done is undone with the others if it comes to that.

        Raises:
            NotFoundError: there is no such saga.
            ConflictError: the step has not failed and waits for no other attempt, or it is what it did that is undone.
        """
        await self._decide(saga_id, saga, Skipped(step=step, reason=reason), by=by, reason=reason)

    async def compensate(self, saga_id: str, *, reason: str, by: str, saga: str | None = None) -> None:
        """Undo whatever was done, even past the pivot, or after the saga has completed.

        Steps under way come to their end first.

        Raises:
            NotFoundError: there is no such saga.
            ConflictError: it is being undone already, or was; or undoing has failed, which is retried or skipped.
        """
        await self._decide(saga_id, saga, Cancelled(reason=reason, forced=True), by=by, reason=reason)

    async def cancel(self, saga_id: str, *, reason: str, by: str, saga: str | None = None) -> None:
        """Begin no further step, and undo what was done; steps under way come to their end first.

        Raises:
            NotFoundError: there is no such saga.
            ConflictError: it is past its pivot, or not running any more.
        """
        await self._decide(saga_id, saga, Cancelled(reason=reason), by=by, reason=reason)

    async def _decide(self, saga_id: str, saga: str | None, what: Happening, *, by: str, reason: str) -> None:
        checked(by=by, reason=reason)
        found = await self.get(saga_id, saga=saga)
        await self._source.run(self._decided(SagaKey(found.summary.saga, saga_id), what, by=by, reason=reason))

    def _decided(self, key: SagaKey, what: Happening, *, by: str, reason: str) -> Program[None]:
        rows = yield from self._store.lock([key])
        if not rows:
            raise NotFoundError(kind=KIND, identifier=key.saga_id)
        journal = decode_journal(rows[0].journal)
        if (refusal := refusal_of(journal, what)) is not None:
            raise ConflictError(f"saga {key.saga_id!r}: {refusal}; nothing was changed")
        journal = observe(UNSHAPED, journal, what, Moment(now_us=rows[0].now_us))
        yield from self._store.save([looked_at(rows[0], journal)])
        details: Mapping[str, object] = {"step": what.step} if isinstance(what, Skipped) else {}
        verb = _verb(what)
        yield from self._acts.record(
            Act(by=by, what=verb, kind=KIND, subject=identity_of(key), reason=reason, details=details)
        )


def _verb(what: Happening) -> str:
    if isinstance(what, Cancelled):
        return "compensate" if what.forced else "cancel"
    return "skip" if isinstance(what, Skipped) else "retry"
