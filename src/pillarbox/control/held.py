"""Held keys as an operator works with them: looking, letting one go on, and giving up what it waits for."""

from __future__ import annotations

from collections.abc import Sequence

from pillarbox.audit import Act, checked
from pillarbox.control.inspection import HeldKey, Inspection
from pillarbox.deadletter import Burial, DeadLetter, Decisions, Order, Ports
from pillarbox.errors import ConflictError, NotFoundError
from pillarbox.errors.values import check_limit
from pillarbox.holding import HeldMessage, HeldState, Hold, HoldState, own_hold_key
from pillarbox.holding.decisions import LockedHold
from pillarbox.transaction import Program, TransactionSource

KEY = "held key"
SKIPPED = "skipped"
"""The reason of a letter that somebody skipped before its attempts were used up."""


class HeldControl:
    """Looks at the keys that consumers hold, and decides about them."""

    def __init__(self, *, ports: Ports, inspection: Inspection, source: TransactionSource) -> None:
        """Work through these ports."""
        self._ports = ports
        self._decisions = Decisions(ports)
        self._inspection = inspection
        self._source = source

    async def list(self, consumer: str | None = None, *, limit: int = 100) -> tuple[HeldKey, ...]:
        """Return the keys held longest, of one consumer or of all."""
        check_limit(limit)
        return tuple(await self._source.run(self._inspection.held_keys(consumer, limit=limit)))

    async def release(self, consumer: str, hold_key: str, *, by: str, reason: str) -> None:
        """Let a key go on at once with what waits in it, in order.

        A retry that waits for its time is made due; what waits for a cause is looked at again, and waits on if that has
        not come. A dead letter that the key waits for stays dead, and holds nothing but itself from now on: the later
        messages of the key overtake it, or those of its consumer, if that was stopped.

        Args:
            consumer: ``<service>/<name>``.
            hold_key: as ``list`` gives it.
            by: who decides.
            reason: why.

        Raises:
            NotFoundError: the key is not held.
            ConflictError: it is the hold of a dead letter alone, behind which nothing waits; nothing was changed.
        """
        checked(by=by, reason=reason)
        await self._source.run(self._release(consumer, hold_key, Order(by=by, reason=reason)))

    async def skip(self, consumer: str, hold_key: str, *, by: str, reason: str) -> DeadLetter:
        """Give up what a key waits for, so that the others go on in their order.

        A dead letter is discarded. A message that waits for a retry becomes a discarded letter: it is kept, and its
        duplicates are not handled.

        Returns:
            The letter that was given up; the last one, should there be more.

        Raises:
            NotFoundError: the key is not held.
            ConflictError: nothing holds it up, or it is handled at this moment; nothing was changed.
        """
        checked(by=by, reason=reason)
        return await self._source.run(self._skip(consumer, hold_key, Order(by=by, reason=reason)))

    def _release(self, consumer: str, hold_key: str, order: Order) -> Program[None]:
        ports = self._ports
        yield from self._locked(consumer, hold_key)
        letters = yield from ports.blockers.blocking(consumer, hold_key)
        if any(hold_key == own_hold_key(letter.message.id) for letter in letters):
            raise ConflictError(f"nothing waits behind {hold_key!r} of {consumer}; replay or discard its dead letter")
        for letter in letters:
            own = own_hold_key(letter.message.id)
            yield from ports.blockers.stand_alone(letter.id, own)
            yield from ports.holds.put_under(consumer, letter.message.id, own)
            yield from ports.holding.hold(consumer, [Hold(hold_key=own, state=HoldState.BLOCKED)])
            yield from ports.pass_over(consumer, letter.message, order.by)
        yield from ports.holds.let_go(consumer, hold_key)
        yield from self._record("release", consumer, hold_key, order, [letter.id for letter in letters])

    def _skip(self, consumer: str, hold_key: str, order: Order) -> Program[DeadLetter]:
        hold = yield from self._locked(consumer, hold_key)
        letters = list((yield from self._ports.blockers.blocking(consumer, hold_key)))
        if not letters:
            letters = [(yield from self._buried(consumer, hold_key, hold))]
        for letter in letters:
            yield from self._decisions.discard(letter, order)
        yield from self._record("skip", consumer, hold_key, order, [letter.id for letter in letters])
        return (yield from self._decisions.get(letters[-1].id))

    def _buried(self, consumer: str, hold_key: str, hold: LockedHold) -> Program[DeadLetter]:
        """Make a dead letter of the message that a key waits for."""
        head = hold.head
        if head is None or _goes_on(hold, head):
            raise ConflictError(f"nothing holds {hold_key!r} of {consumer} up: it goes on by itself")
        if hold.is_leased:
            raise ConflictError(f"{hold_key!r} of {consumer} is handled at this moment; look again, then try again")
        ports = self._ports
        known = yield from ports.blockers.of_message(consumer, head.message.id)
        yield from ports.letters.bury(consumer, [_burial(head, hold_key, known)])
        yield from ports.holds.take_out(consumer, hold_key, [head.message.id])
        letter = yield from ports.blockers.of_message(consumer, head.message.id)
        assert letter is not None, "it was buried just now"
        return letter

    def _locked(self, consumer: str, hold_key: str) -> Program[LockedHold]:
        hold = yield from self._ports.holds.lock(consumer, hold_key)
        if hold is None:
            raise NotFoundError(kind=f"{KEY} of {consumer}", identifier=hold_key)
        return hold

    def _record(self, what: str, consumer: str, hold_key: str, order: Order, letters: Sequence[int]) -> Program[None]:
        act = Act(
            by=order.by,
            what=what,
            kind=KEY,
            subject=hold_key,
            consumer=consumer,
            reason=order.reason,
            details={"letters": tuple(letters)},
        )
        yield from self._ports.acts.record(act)


def _goes_on(hold: LockedHold, head: HeldMessage) -> bool:
    """Tell whether nothing keeps the head of a hold: what was held behind another stays ``held`` when it fails."""
    return head.state is HeldState.HELD and hold.is_due and not head.history


def _burial(head: HeldMessage, hold_key: str, known: DeadLetter | None) -> Burial:
    """Return the burial of a message that waits; a letter that is being replayed keeps its stack and its group."""
    return Burial(
        hold_key=hold_key,
        message=head.message,
        reason=SKIPPED,
        attempts=head.attempts,
        history=head.history,
        stack="" if known is None else known.stack,
        fingerprint=SKIPPED if known is None else known.fingerprint,
    )
