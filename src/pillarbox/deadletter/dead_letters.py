"""Dead letters as an operator and a program work with them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeAlias

from pillarbox.deadletter.record import DeadLetter, DeadLetterState
from pillarbox.deadletter.store import DeadLetterFilter, DeadLetterStore
from pillarbox.errors import ConflictError, NotFoundError, ReplayTooLateError
from pillarbox.holding import HeldMessage, HeldState, Hold, HoldingStore, own_hold_key
from pillarbox.message import Message
from pillarbox.transaction import Program, TransactionSource

EVERYTHING_DEAD = DeadLetterFilter()
PassOver: TypeAlias = Callable[[str, Message, str], Program[None]]
"""Told of a consumer, a message that it will not handle, and who decided that."""


class DeadLetters:
    """The dead letter office of one database.

    EIP: *Dead Letter Channel*.
    """

    def __init__(
        self,
        *,
        store: DeadLetterStore,
        holding: HoldingStore,
        source: TransactionSource,
        replay_within: timedelta | None = None,
        pass_over: PassOver | None = None,
    ) -> None:
        """Work on the letters in ``store``; replays go into ``holding``, older than ``replay_within`` by force only.

        ``pass_over`` is told in the same transaction of what will not be handled, so that nothing waits for it.
        """
        self._store = store
        self._holding = holding
        self._source = source
        self._replay_within = replay_within
        self._pass_over = pass_over

    async def list(
        self, where: DeadLetterFilter = EVERYTHING_DEAD, *, after: int = 0, limit: int = 100
    ) -> tuple[DeadLetter, ...]:
        """Return up to ``limit`` letters with an id above ``after``, oldest first."""
        return tuple(await self._source.run(self._store.find(where, after=after, limit=limit)))

    async def count(self, where: DeadLetterFilter = EVERYTHING_DEAD) -> int:
        """Count letters."""
        return await self._source.run(self._store.count(where))

    async def get(self, letter_id: int) -> DeadLetter:
        """Return one letter.

        Raises:
            NotFoundError: there is no such letter.
        """
        return await self._source.run(self._get(letter_id))

    async def replay(self, letter_id: int, *, by: str, force: bool = False) -> DeadLetter:
        """Make a letter due again for the one consumer that could not handle it, at the head of its key.

        It does not pass through the broker, so no other consumer sees it.

        Args:
            letter_id: the letter.
            by: who asks for it.
            force: also when it is older than what the inbox is sure to remember.

        Raises:
            NotFoundError: there is no such letter.
            ReplayTooLateError: the letter is too old to be replayed without force; nothing was changed.
            ConflictError: the letter is not dead (any more); nothing was changed.
        """
        if not by:
            raise ValueError("by= must say who replays the letter")
        return await self._source.run(self._replay(letter_id, None if force else self._replay_within))

    async def discard(self, letter_id: int, *, by: str) -> DeadLetter:
        """Decide that a letter will not be handled: what it blocks goes on without it.

        The letter stays, to be looked at. One that blocks nothing but itself goes on keeping its duplicates away.

        Args:
            letter_id: the letter.
            by: who decides.

        Raises:
            NotFoundError: there is no such letter.
            ConflictError: the letter is not dead (any more); nothing was changed.
        """
        if not by:
            raise ValueError("by= must say who discards the letter")
        return await self._source.run(self._discard(letter_id, by))

    def _discard(self, letter_id: int, by: str) -> Program[DeadLetter]:
        letter = yield from self._get(letter_id)
        if not (yield from self._store.move(letter_id, to=DeadLetterState.DISCARDED)):
            raise ConflictError(f"dead letter {letter_id} is {letter.state}; only a dead one can be discarded")
        if self._pass_over is not None:
            yield from self._pass_over(letter.consumer, letter.message, by)
        if letter.hold_key != own_hold_key(letter.message.id):
            yield from self._holding.hold(letter.consumer, [Hold(hold_key=letter.hold_key)])
        return letter

    def _get(self, letter_id: int) -> Program[DeadLetter]:
        letter = yield from self._store.get(letter_id)
        if letter is None:
            raise NotFoundError(kind="dead letter", identifier=str(letter_id))
        return letter

    def _replay(self, letter_id: int, within: timedelta | None) -> Program[DeadLetter]:
        letter = yield from self._get(letter_id)
        if letter.state is DeadLetterState.DEAD and within is not None and letter.dead_for > within:
            raise ReplayTooLateError(letter_id=letter_id, dead_for=letter.dead_for, replay_within=within)
        if not (yield from self._store.move(letter_id, to=DeadLetterState.REPLAYING)):
            raise ConflictError(f"dead letter {letter_id} is {letter.state}; only a dead one can be replayed")
        yield from self._holding.hold(letter.consumer, [Hold(hold_key=letter.hold_key)])
        again = HeldMessage(hold_key=letter.hold_key, message=letter.message, state=HeldState.REPLAYING)
        yield from self._holding.append(letter.consumer, [again])
        return letter
