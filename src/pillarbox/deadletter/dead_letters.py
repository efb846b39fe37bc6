"""Dead letters as an operator and a program work with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from pillarbox.audit import Act, Forgotten, RecordedAct, check_words, checked
from pillarbox.deadletter.decisions import LETTER, Decisions, Order, Ports
from pillarbox.deadletter.editing import Edit
from pillarbox.deadletter.groups import DeadLetterCount, DeadLetterGroup, GroupFilter, GroupState
from pillarbox.deadletter.record import DeadLetter, DeadLetterState
from pillarbox.deadletter.replays import REPLAY_ALL, RUN, Replays
from pillarbox.deadletter.store import DeadLetterFilter
from pillarbox.errors import NotFoundError
from pillarbox.errors.values import check_limit
from pillarbox.message import Message
from pillarbox.transaction import Program, TransactionSource

EVERYTHING_DEAD = DeadLetterFilter()
ALL_GROUPS = GroupFilter()
PURGED_AT_ONCE = 1000
MOST_ACTS = 1000


class DeadLetters(Replays):
    """The dead letter office of one database.

    EIP: *Dead Letter Channel*.
    """

    def __init__(
        self,
        *,
        ports: Ports,
        source: TransactionSource,
        check: Callable[[Message], object] | None = None,
        replay_within: timedelta | None = None,
    ) -> None:
        """Work on the letters behind ``ports``; ``check`` refuses edited messages that do not fit their type.

        Letters are replayed only if they failed within ``replay_within``, or by force.
        """
        super().__init__(ports=ports, source=source, replay_within=replay_within)
        self._letters = ports.letters
        self._decisions = Decisions(ports)
        self._check = check

    # --- looking ---

    async def stats(self) -> tuple[DeadLetterCount, ...]:
        """Count all letters, by consumer, type, state and reason."""
        return tuple(await self._source.run(self._ports.review.stats()))

    async def groups(self, where: GroupFilter = ALL_GROUPS, *, limit: int = 100) -> tuple[DeadLetterGroup, ...]:
        """Return the groups of letters with one cause, the one seen last first."""
        check_limit(limit)
        return tuple(await self._source.run(self._ports.review.groups(where, limit=limit)))

    async def list(
        self, where: DeadLetterFilter = EVERYTHING_DEAD, *, after: int = 0, limit: int = 100
    ) -> tuple[DeadLetter, ...]:
        """Return up to ``limit`` letters with an id above ``after``, oldest first."""
        check_limit(limit)
        return tuple(await self._source.run(self._letters.find(where, after=after, limit=limit)))

    async def count(self, where: DeadLetterFilter = EVERYTHING_DEAD) -> int:
        """Count letters."""
        return await self._source.run(self._letters.count(where))

    async def get(self, letter_id: int) -> DeadLetter:
        """Return one letter.

        Raises:
            NotFoundError: there is no such letter.
        """
        return await self._source.run(self._decisions.get(letter_id))

    async def edits(self, letter_id: int) -> tuple[Edit, ...]:
        """Return the edits of a letter, oldest first; the first one has the body as it was delivered."""
        return tuple(await self._source.run(self._ports.edits.edits(letter_id)))

    async def acts(self, letter_id: int) -> tuple[RecordedAct, ...]:
        """Return what was done to a letter, oldest first; a replay of many is one act, whose subject is its run."""
        return tuple(await self._source.run(self._acts(letter_id)))

    # --- deciding about one ---

    async def replay(self, letter_id: int, *, by: str, force: bool = False) -> DeadLetter:
        """Make a letter due again for the one consumer that could not handle it, at the head of its key.

        It does not pass through the broker, so no other consumer sees it.

        Args:
            letter_id: the letter.
            by: who asks for it.
            force: also when it is older than what the inbox is sure to remember, or was replayed so often that it will
                most likely fail again.

        Raises:
            NotFoundError: there is no such letter.
            ReplayTooLateError: only with force; nothing was changed.
            ReplayedTooOftenError: only with force; nothing was changed.
            ConflictError: the letter is not dead (any more); nothing was changed.
        """
        checked(by=by)
        return await self._source.run(self._replay(letter_id, Order(by=by), force=force))

    async def discard(self, letter_id: int, *, reason: str, by: str) -> DeadLetter:
        """Give a letter up: what it blocks goes on without it, and a late duplicate of it is not handled.

        Its key goes on, or the consumer that it stopped, or the line of numbers that has come to it; what waits for it
        as a cause waits no more. The letter is kept, marked as discarded, until it is purged.

        Raises:
            NotFoundError: there is no such letter.
            ConflictError: the letter is not dead (any more); nothing was changed.
        """
        checked(by=by, reason=reason)
        return await self._source.run(self._discard(letter_id, Order(by=by, reason=reason)))

    async def edit(
        self,
        letter_id: int,
        body: bytes | None = None,
        *,
        patch: Mapping[str, object] | None = None,
        reason: str,
        by: str,
    ) -> DeadLetter:
        """Give a letter another body, to be replayed then; the body as it was delivered is kept beside it.

        Args:
            letter_id: the letter.
            body: the whole new body.
            patch: instead of it: what to merge into a JSON body (RFC 7396); ``None`` takes a name away.
            reason: why.
            by: who decides.

        Raises:
            NotFoundError: there is no such letter.
            DecodeError: the new body does not fit the type of the message; nothing was changed.
            ConflictError: the letter is not dead (any more); nothing was changed.
        """
        checked(by=by, reason=reason)
        if (body is None) == (patch is None):
            raise ValueError("give the whole new body, or patch=")
        return await self._source.run(self._edit(letter_id, body, patch, Order(by=by, reason=reason)))

    # --- deciding about many ---

    async def resolve_group(self, fingerprint: str, *, by: str, consumer: str | None = None, note: str = "") -> int:
        """Note that a cause is mended; a letter that still comes opens the group again, marked as a regression.

        Raises:
            NotFoundError: there is no such group.
        """
        return await self._judge(fingerprint, consumer, GroupState.RESOLVED, note or None, by)

    async def ignore_group(self, fingerprint: str, *, by: str, consumer: str | None = None, note: str = "") -> int:
        """Note that a cause is known and not to be mended.

        Raises:
            NotFoundError: there is no such group.
        """
        return await self._judge(fingerprint, consumer, GroupState.IGNORED, note or None, by)

    async def reopen_group(self, fingerprint: str, *, by: str, consumer: str | None = None, note: str = "") -> int:
        """Note that a cause is to be looked at again.

        Raises:
            NotFoundError: there is no such group.
        """
        return await self._judge(fingerprint, consumer, GroupState.OPEN, note or None, by)

    async def note_group(self, fingerprint: str, note: str, *, by: str, consumer: str | None = None) -> int:
        """Write something about a cause; it replaces what was written before.

        Raises:
            NotFoundError: there is no such group.
        """
        return await self._judge(fingerprint, consumer, None, note, by)

    async def purge(self, older_than: timedelta, *, by: str) -> int:
        """Remove resolved and discarded letters whose last failure is longer ago, in short transactions.

        What is dead, or being replayed, stays for ever. Replay runs that ended longer ago go, too, when none of their
        letters is left; the record of the purge says what had become of these. What operators did stays.

        Returns:
            How many letters were removed.
        """
        checked(by=by)
        purged, batch = 0, PURGED_AT_ONCE
        while batch == PURGED_AT_ONCE:  # letters grow old all the time: while there is one it would never end
            batch = await self._source.run(self._purge(older_than, by))
            purged += batch
        while runs := await self._source.run(self._ports.archive.over(older_than, limit=PURGED_AT_ONCE)):
            for run_id in runs:
                while await self._source.run(self._purge_run(run_id, by)):
                    pass
        return purged

    async def purge_acts(self, older_than: timedelta, *, by: str) -> int:
        """Remove the record of what operators did longer ago, to anything, in short transactions.

        What was done to a dead letter or a replay run that is still kept stays; this is recorded itself.

        Returns:
            How many acts were removed.
        """
        checked(by=by)
        purged, after = 0, 0
        while True:
            gone = await self._source.run(self._purge_acts(older_than, by, after))
            purged += gone.count
            if gone.until is None:
                return purged
            after = gone.until

    def _acts(self, letter_id: int) -> Program[Sequence[RecordedAct]]:
        found = list((yield from self._ports.acts.find(kind=LETTER, subject=str(letter_id), limit=MOST_ACTS)))
        for run_id in (yield from self._ports.archive.having(letter_id)):
            of_run = yield from self._ports.acts.find(kind=RUN, subject=run_id, limit=MOST_ACTS)
            found += (one for one in of_run if one.act.what == REPLAY_ALL)
        return sorted(found, key=lambda one: one.id)

    def _replay(self, letter_id: int, order: Order, *, force: bool) -> Program[DeadLetter]:
        letter = yield from self._decisions.get(letter_id)
        return (yield from self._decisions.replay(letter, order, within=self._replay_within, force=force))

    def _discard(self, letter_id: int, order: Order) -> Program[DeadLetter]:
        letter = yield from self._decisions.get(letter_id)
        yield from self._decisions.discard(letter, order)
        return replace(letter, state=DeadLetterState.DISCARDED)

    def _edit(
        self, letter_id: int, body: bytes | None, patch: Mapping[str, object] | None, order: Order
    ) -> Program[DeadLetter]:
        letter = yield from self._decisions.get(letter_id)
        return (yield from self._decisions.edit(letter, order, body=body, patch=patch, check=self._check))

    async def _judge(
        self, fingerprint: str, consumer: str | None, state: GroupState | None, note: str | None, by: str
    ) -> int:
        checked(by=by)
        if note is not None:
            check_words(note, name="note=")
        act = Act(
            by=by,
            what="note" if state is None else {"open": "reopen", "resolved": "resolve", "ignored": "ignore"}[state],
            kind="group",
            subject=fingerprint,
            consumer=consumer,
            details={} if note is None else {"note": note},
        )
        where = GroupFilter(fingerprint=fingerprint, consumer=consumer)

        def judging() -> Program[int]:
            count = yield from self._ports.review.judge(where, state=state, note=note)
            if not count:
                raise NotFoundError(kind="group of dead letters", identifier=fingerprint)
            yield from self._ports.acts.record(act)
            return count

        return await self._source.run(judging())

    def _purge(self, older_than: timedelta, by: str) -> Program[int]:
        count = yield from self._ports.review.purge(older_than, limit=PURGED_AT_ONCE)
        if count:
            details = {"count": count, "older_than_s": older_than.total_seconds()}
            yield from self._ports.acts.record(
                Act(by=by, what="purge", kind=LETTER, subject="resolved and discarded", details=details)
            )
        return count

    def _purge_run(self, run_id: str, by: str) -> Program[bool]:
        removed = yield from self._ports.archive.remove(run_id, limit=PURGED_AT_ONCE)
        if removed is None:
            return False
        details = {state.value: count for state, count in removed.items()}
        yield from self._ports.acts.record(Act(by=by, what="purge", kind=RUN, subject=run_id, details=details))
        return True

    def _purge_acts(self, older_than: timedelta, by: str, after: int) -> Program[Forgotten]:
        gone = yield from self._ports.acts.purge(older_than, after=after, limit=PURGED_AT_ONCE)
        if gone.count:
            details = {"count": gone.count, "older_than_s": older_than.total_seconds()}
            yield from self._ports.acts.record(Act(by=by, what="purge", kind="acts", subject="old", details=details))
        return gone
