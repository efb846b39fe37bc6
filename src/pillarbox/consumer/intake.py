"""Where a run's messages come from, and where those go that it could not handle: a channel, or holding."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Literal, Protocol, TypeAlias

from pillarbox.channel import Delivery
from pillarbox.consumer.item import Item
from pillarbox.deadletter import Burial, DeadLetterStore, fingerprint_of, stack_of
from pillarbox.deadletter.groups import Arrival
from pillarbox.errors import InternalError
from pillarbox.holding import (
    HeldMessage,
    HeldQueue,
    HeldState,
    Hold,
    HoldingStore,
    HoldState,
    own_hold_key,
    stop_key_of,
)
from pillarbox.observe import HeldKeyFull
from pillarbox.retry import GiveUp, RetryLater
from pillarbox.transaction import Program

Blocks: TypeAlias = Literal["key", "message", "consumer"]
"""What a dead message keeps from being handled."""


class Accepts(Protocol):
    """The end of a channel that can be told of accepted messages inside the run's transaction."""

    @abstractmethod
    def accept_within(self, deliveries: Sequence[Delivery]) -> Program[None]:
        """Accept ``deliveries`` in the transaction that runs this program."""


class Intake(Protocol):
    """The source of a run's messages; every method is part of the run's transaction."""

    @abstractmethod
    def admit(self, items: Sequence[Item]) -> Program[Sequence[Item]]:
        """Return the items that may run; put those behind a held key that may not.

        One that there is no room for behind its key is marked as returned, and so are all later ones of its key.
        """

    @abstractmethod
    def retry_later(self, items: Sequence[Item]) -> Program[None]:
        """Put items aside until their retry is due, and hold their keys."""

    @abstractmethod
    def bury(self, items: Sequence[Item]) -> Program[None]:
        """Move items to the dead letters."""

    @abstractmethod
    def put_behind(self, items: Sequence[Item]) -> Program[None]:
        """Put items behind an earlier one of their key that waits."""

    @abstractmethod
    def accept(self, items: Sequence[Item], done: Sequence[Item]) -> Program[None]:
        """Close the run: ``items`` are all of them, ``done`` those that wait for nothing any more.

        Raises:
            LeaseLostError: the messages are another process's by now; the transaction must be rolled back.
        """


class Around(Intake):
    """An intake around another one, which does everything that a subclass does not do in another way."""

    def __init__(self, inner: Intake) -> None:
        """Do what ``inner`` does."""
        self._inner = inner

    def admit(self, items: Sequence[Item]) -> Program[Sequence[Item]]:
        """Do what the inner intake does."""
        return self._inner.admit(items)

    def retry_later(self, items: Sequence[Item]) -> Program[None]:
        """Do what the inner intake does."""
        return self._inner.retry_later(items)

    def bury(self, items: Sequence[Item]) -> Program[None]:
        """Do what the inner intake does."""
        return self._inner.bury(items)

    def put_behind(self, items: Sequence[Item]) -> Program[None]:
        """Do what the inner intake does."""
        return self._inner.put_behind(items)

    def accept(self, items: Sequence[Item], done: Sequence[Item]) -> Program[None]:
        """Do what the inner intake does."""
        return self._inner.accept(items, done)


class Burials:
    """How one consumer's dead messages are buried, and what they block."""

    def __init__(
        self,
        consumer: str,
        *,
        dead_letters: DeadLetterStore,
        holding: HoldingStore,
        blocks: Blocks,
        redact: Callable[[str], str],
        package: str = "",
    ) -> None:
        """Block what the message ``blocks``; the message alone is blocked so that late duplicates do not run.

        Stacks go through ``redact``; ``package`` is the handler's, see ``fingerprint_of``.
        """
        self._consumer = consumer
        self._dead_letters = dead_letters
        self._holding = holding
        self._blocks: Blocks = blocks
        self._redact = redact
        self._package = package

    def bury(self, items: Sequence[Item]) -> Program[None]:
        """Store the holds and the dead letters they are there for; keys are locked before groups, as a replay does."""
        burials = [self._burial(item) for item in items]
        blocked = [Hold(hold_key=burial.hold_key, state=HoldState.BLOCKED) for burial in burials]
        yield from self._holding.hold(self._consumer, blocked)
        arrivals = dict((yield from self._dead_letters.bury(self._consumer, burials)))
        for item, burial in zip(items, burials, strict=True):
            item.arrival = arrivals[burial.fingerprint]
            arrivals[burial.fingerprint] = Arrival(quiet_for=timedelta(0))  # for those that come with it

    def _burial(self, item: Item) -> Burial:
        if not isinstance(item.verdict, GiveUp) or item.error is None:
            raise InternalError(f"message {item.message.id} is buried without a verdict")
        return Burial(
            hold_key=self._hold_key_of(item),
            message=item.message,
            reason=item.verdict.reason,
            attempts=item.attempts,
            history=item.history,
            stack=stack_of(item.error, self._redact),
            fingerprint=fingerprint_of(item.error, item.message.type, package=self._package),
        )

    def _hold_key_of(self, item: Item) -> str:
        if not item.blocks:
            return own_hold_key(item.message.id)
        match self._blocks:
            case "key":
                return item.hold_key
            case "message":
                return own_hold_key(item.message.id)
            case "consumer":
                return stop_key_of(item.message.id)


class ChannelIntake(Intake):
    """Messages as a channel delivers them."""

    def __init__(
        self,
        consumer: str,
        *,
        holding: HoldingStore,
        burials: Burials,
        accepts: Accepts | None,
        max_held: int | None = None,
    ) -> None:
        """Accept within the transaction where the channel can (``accepts``), else after its commit.

        A held key that has ``max_held`` messages gets no more of them from the channel; ``None`` sets no bound.
        """
        self._consumer = consumer
        self._holding = holding
        self._burials = burials
        self._accepts = accepts
        self._max_held = max_held

    def admit(self, items: Sequence[Item]) -> Program[Sequence[Item]]:
        """Look up the holds of the items' keys, and of the items themselves: a late duplicate of a dead one waits.

        What comes for a full key goes back. A run that finds room is put behind it as a whole, and may cross the limit.
        """
        for item in items:
            item.returned, item.notice = False, None
        own = {item.message.id: own_hold_key(item.message.id) for item in items}
        asked = sorted({item.hold_key for item in items} | set(own.values()))
        held = yield from self._holding.held_among(self._consumer, asked)
        if not held:
            return items
        full = yield from self._full_among(set(held).difference(own.values()))
        waiting: list[HeldMessage] = []
        admitted: list[Item] = []
        for item in items:
            if item.hold_key in full:
                self._give_back(item)
            elif item.hold_key in held:
                waiting.append(_held(item, hold_key=item.hold_key))
            elif own[item.message.id] in held:
                waiting.append(_held(item, hold_key=own[item.message.id]))
            else:
                admitted.append(item)
        if waiting:
            yield from self._holding.append(self._consumer, waiting)
        return admitted

    def _full_among(self, keys: Collection[str]) -> Program[Collection[str]]:
        """Return which of these held keys take no more; the hold of one message alone is not asked about."""
        if self._max_held is None or not keys:
            return ()
        return (yield from self._holding.full_among(self._consumer, sorted(keys), limit=self._max_held))

    def _give_back(self, item: Item) -> None:
        item.returned = True
        item.notice = HeldKeyFull(consumer=self._consumer, message_id=item.message.id, limit=self._max_held or 0)

    def retry_later(self, items: Sequence[Item]) -> Program[None]:
        """Create the holds, each with its head; one that somebody else has created meanwhile stays as it is."""
        holds = [Hold(hold_key=item.hold_key, due_in=_wait_of(item)) for item in items]
        yield from self._holding.join(self._consumer, holds)
        heads = [
            HeldMessage(
                hold_key=item.hold_key,
                message=item.message,
                state=HeldState.RETRYING,
                attempts=item.attempts,
                due_in=_wait_of(item),
                history=item.history,
            )
            for item in items
        ]
        yield from self._holding.append(self._consumer, heads)

    def bury(self, items: Sequence[Item]) -> Program[None]:
        """Store the dead letters."""
        return self._burials.bury(items)

    def put_behind(self, items: Sequence[Item]) -> Program[None]:
        """Append to the holds; one that has ended, since what they were behind was handled meanwhile, begins anew."""
        keys = sorted({item.hold_key for item in items})
        yield from self._holding.join(self._consumer, [Hold(hold_key=key) for key in keys])
        yield from self._holding.append(self._consumer, [_held(item, hold_key=item.hold_key) for item in items])

    def accept(self, items: Sequence[Item], done: Sequence[Item]) -> Program[None]:
        """Accept everything: what is not done lies in holding or the dead letters now."""
        if self._accepts is not None:
            deliveries = [item.delivery for item in items if item.delivery is not None]
            yield from self._accepts.accept_within(deliveries)


class HeldIntake(Intake):
    """Messages at the head of held keys that this process has leased."""

    def __init__(
        self,
        consumer: str,
        *,
        held: HeldQueue,
        dead_letters: DeadLetterStore,
        burials: Burials,
        token: str,
    ) -> None:
        """Drain the holds leased under ``token``."""
        self._consumer = consumer
        self._held = held
        self._dead_letters = dead_letters
        self._burials = burials
        self._token = token

    def admit(self, items: Sequence[Item]) -> Program[Sequence[Item]]:
        """Admit all: whoever leases the hold may run its head."""
        yield from ()
        return items

    def retry_later(self, items: Sequence[Item]) -> Program[None]:
        """Leave the items where they are, with a new due time."""
        rescheduled = [
            HeldMessage(
                hold_key=item.hold_key,
                message=item.message,
                state=item.state or HeldState.RETRYING,
                attempts=item.attempts,
                due_in=_wait_of(item),
                history=item.history,
            )
            for item in items
        ]
        yield from self._held.reschedule(self._consumer, rescheduled)

    def bury(self, items: Sequence[Item]) -> Program[None]:
        """Move from holding to the dead letters."""
        yield from self._burials.bury(items)
        yield from self._held.remove(self._consumer, [item.message.id for item in items])

    def put_behind(self, items: Sequence[Item]) -> Program[None]:
        """Do nothing: they stand behind the head already."""
        yield from ()

    def accept(self, items: Sequence[Item], done: Sequence[Item]) -> Program[None]:
        """Remove what is done, if the holds of what this run has changed are still ours.

        What is behind a message that waits stays as it is: its hold may be somebody else's by now, an operator's say.
        """
        over = {id(item) for item in done}
        changed = {item.hold_key for item in items if id(item) in over or item.verdict is not None}
        if changed:
            yield from self._held.fence(self._consumer, changed, token=self._token)
        yield from self._held.remove(self._consumer, [item.message.id for item in done])
        if replayed := [item.message.id for item in done if item.state is HeldState.REPLAYING]:
            yield from self._dead_letters.resolve(self._consumer, replayed)


def _held(item: Item, *, hold_key: str) -> HeldMessage:
    return HeldMessage(
        hold_key=hold_key,
        message=item.message,
        state=HeldState.HELD,
        attempts=item.attempts,
        history=item.history,
    )


def _wait_of(item: Item) -> timedelta:
    if not isinstance(item.verdict, RetryLater):
        raise InternalError(f"message {item.message.id} is put aside without a verdict")
    return item.verdict.after
