"""What may be decided about one dead letter, as programs that record the act in the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from msgspec.structs import replace

from pillarbox.audit import Act, ActStore
from pillarbox.deadletter.archive import ReplayArchive
from pillarbox.deadletter.editing import DeadLetterEdits, differences, patched
from pillarbox.deadletter.groups import DeadLetterReview
from pillarbox.deadletter.record import DeadLetter, DeadLetterState
from pillarbox.deadletter.runs import MAX_REPLAYS, ReplayRunStore
from pillarbox.deadletter.store import Blockers, DeadLetterStore
from pillarbox.errors import ConflictError, NotFoundError, ReplayedTooOftenError, ReplayTooLateError
from pillarbox.holding import HeldMessage, HeldState, Hold, HoldingStore, WaitStore
from pillarbox.holding.decisions import HoldDecisions
from pillarbox.idempotency import InboxStore
from pillarbox.message import Message
from pillarbox.transaction import Program

LETTER = "dead letter"
PassOver: TypeAlias = Callable[[str, Message, str], Program[None]]
"""Told of a consumer, a message that it will not handle, and who decided that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What dead letters are worked on through.

    Attributes:
        pass_over: told in the same transaction of what will not be handled, so that no later number waits for it.
    """

    letters: DeadLetterStore
    blockers: Blockers
    review: DeadLetterReview
    edits: DeadLetterEdits
    runs: ReplayRunStore
    archive: ReplayArchive
    acts: ActStore
    holding: HoldingStore
    holds: HoldDecisions
    waits: WaitStore
    inbox: InboxStore
    pass_over: PassOver


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Who decides, and why."""

    by: str
    reason: str = ""

    def on(self, letter: DeadLetter, what: str, **details: object) -> Act:
        """Return the act of doing ``what`` to ``letter``."""
        return Act(
            by=self.by,
            what=what,
            kind=LETTER,
            subject=str(letter.id),
            consumer=letter.consumer,
            reason=self.reason,
            details={"message_id": letter.message.id, **details},
        )


class Decisions:
    """Programs over the ports; whoever runs one commits it."""

    def __init__(self, ports: Ports) -> None:
        """Decide through ``ports``."""
        self._ports = ports

    def get(self, letter_id: int) -> Program[DeadLetter]:
        """Return one letter.

        Raises:
            NotFoundError: there is no such letter.
        """
        letter = yield from self._ports.letters.get(letter_id)
        if letter is None:
            raise NotFoundError(kind=LETTER, identifier=str(letter_id))
        return letter

    def replay(self, letter: DeadLetter, order: Order, *, within: timedelta | None, force: bool) -> Program[DeadLetter]:
        """Make a letter due at the head of the key that it holds.

        Raises:
            ConflictError: it is not dead (any more).
            ReplayTooLateError: it failed longer ago than ``within``, and only ``force`` replays it.
            ReplayedTooOftenError: it was replayed so often that only ``force`` does it again.
        """
        if letter.state is DeadLetterState.DEAD and not force:
            if within is not None and letter.dead_for > within:
                raise ReplayTooLateError(letter_id=letter.id, dead_for=letter.dead_for, replay_within=within)
            if letter.replays >= MAX_REPLAYS:
                raise ReplayedTooOftenError(letter_id=letter.id, replays=letter.replays)
        letter = yield from self._locked(letter)
        letter = yield from self._moved(letter, DeadLetterState.REPLAYING)
        yield from self._ports.holding.hold(letter.consumer, [Hold(hold_key=letter.hold_key)])
        again = HeldMessage(hold_key=letter.hold_key, message=letter.message, state=HeldState.REPLAYING)
        yield from self._ports.holding.append(letter.consumer, [again])
        yield from self._ports.acts.record(order.on(letter, "replay", forced=force))
        return letter

    def discard(self, letter: DeadLetter, order: Order) -> Program[DeadLetter]:
        """Give a letter up, so that its key goes on with what is behind it, and the others with what waits for it.

        Its id counts as processed from now on, and a copy that is held is removed: a late duplicate is suppressed for
        as long as the inbox remembers, like one of any message. A hold of its own would stay, and be counted, for ever.

        Raises:
            ConflictError: it is not dead (any more).
        """
        ports = self._ports
        letter = yield from self._locked(letter)
        yield from self._moved(letter, DeadLetterState.DISCARDED)
        yield from ports.inbox.record(letter.consumer, [letter.message.id])
        yield from ports.pass_over(letter.consumer, letter.message, order.by)
        if effects := (yield from ports.waits.waited_for(letter.consumer, [letter.message.id])):
            yield from ports.waits.look_again(letter.consumer, effects)
        yield from ports.waits.forget(letter.consumer, [letter.message.id])
        yield from ports.holds.take_out(letter.consumer, letter.hold_key, [letter.message.id])
        if not (yield from ports.blockers.blocking(letter.consumer, letter.hold_key)):
            yield from ports.holds.let_go(letter.consumer, letter.hold_key)
        yield from ports.acts.record(order.on(letter, "discard"))
        return letter

    def edit(
        self,
        letter: DeadLetter,
        order: Order,
        *,
        body: bytes | None,
        patch: Mapping[str, object] | None,
        check: Callable[[Message], object] | None,
    ) -> Program[DeadLetter]:
        """Give a letter another body, and keep the one that it had.

        Raises:
            ConflictError: it is not dead (any more), or was edited meanwhile.
            DecodeError: the new body does not fit its type.
        """
        before = letter.message
        after = replace(before, body=body if body is not None else patched(before, patch or {}))
        if check is not None:
            check(after)
        changes = differences(before.body, after.body)
        changed = yield from self._ports.edits.change(
            letter.id, before=before.body, after=after.body, changes=changes, by=order.by, reason=order.reason
        )
        if not changed:
            raise ConflictError(
                f"dead letter {letter.id} was {letter.state} when it was read, and is not dead now or has another body"
            )
        sizes = {"bytes_before": len(before.body), "bytes_after": len(after.body)}
        paths = [change.path for change in changes]
        yield from self._ports.acts.record(order.on(letter, "edit", paths=paths, **sizes))
        return (yield from self.get(letter.id))

    def _locked(self, letter: DeadLetter) -> Program[DeadLetter]:
        """Return ``letter`` as it is with the key that it holds locked: nobody lends it another key meanwhile."""
        yield from self._ports.holds.lock(letter.consumer, letter.hold_key)
        now = yield from self.get(letter.id)
        if now.hold_key != letter.hold_key:
            raise ConflictError(f"the key that dead letter {letter.id} held was released this moment; try again")
        return now

    def _moved(self, letter: DeadLetter, to: DeadLetterState) -> Program[DeadLetter]:
        """Return ``letter`` as it is now that it was moved: somebody may have edited it until this locked it."""
        if not (yield from self._ports.letters.move(letter.id, to=to)):
            verb = "replayed" if to is DeadLetterState.REPLAYING else "discarded"
            raise ConflictError(f"dead letter {letter.id} is {letter.state}; only a dead one can be {verb}")
        return (yield from self.get(letter.id))
