"""The order of causes: the gate that lets a message wait for them, and the intake that notices when they come."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta

from pillarbox.channel import is_queue
from pillarbox.consumer.gate import Gate
from pillarbox.consumer.intake import Around, Intake
from pillarbox.consumer.item import Item
from pillarbox.consumer.registry import ConsumerRegistry
from pillarbox.consumer.spec import Consumer
from pillarbox.errors import CauseMissingError, DecodeError
from pillarbox.holding import HeldState, Waiting, WaitStore
from pillarbox.idempotency import ClaimStore
from pillarbox.message import Cause
from pillarbox.observe import CauseAwaited, CauseMissing
from pillarbox.ordering import Causal
from pillarbox.ordering.causes import (
    FIRST_LOOK,
    GoToTheDead,
    Pass,
    Place,
    Trouble,
    Wait,
    arranged,
    decide,
    is_circular,
)
from pillarbox.retry import GiveUp, RetryLater
from pillarbox.transaction import Program

FOLLOWED = 1_000
"""So many causes of causes are looked at to find a circle; a larger one is told of when the waiting is over."""


def sees(consumer: Consumer, cause: Cause, *, elsewhere: Collection[str] = ()) -> bool:
    """Tell whether ``consumer`` is given ``cause``, here or by a release that handles the types ``elsewhere``.

    A message that it never sees is not waited for.
    """
    takes_all = consumer.route is not None and not consumer.route.types
    is_known = takes_all or cause.type in consumer.message_types or cause.type in elsewhere
    return (is_known or is_queue(cause.destination)) and cause.destination in consumer.channels


class CausalGate(Gate):
    """Admits a message when its consumer has processed what caused it.

    A message that must wait is put aside like one that waits for its retry: at the head of its channel's key, so that
    this order is kept, too. Between channels a key has no order but that of causes: with any other, two keys could wait
    for each other. Whoever processes a cause makes what waits for it due in the same transaction. Beyond that
    everything that waits is looked at again from time to time: the cause may have been committed between a look and
    its commit, or may be found dead.
    """

    def __init__(
        self,
        consumer: Consumer,
        ordering: Causal,
        *,
        waits: WaitStore,
        claims: ClaimStore,
        registry: ConsumerRegistry,
        now: Callable[[], datetime],
        redact: Callable[[str], str],
    ) -> None:
        """Stand before the handlers of ``consumer``; ``claims`` knows what it has processed.

        What other releases of it handle is in ``registry``: a cause that waits for one of them is waited for, too.
        What is given up may name what its producer wrote, so its text goes through ``redact``.
        """
        self._consumer = consumer
        self._name = consumer.identity
        self._ordering = ordering
        self._blocks_key = consumer.options.blocks_key
        self._in_one_transaction = consumer.mode == "transaction"
        self._waits = waits
        self._claims = claims
        self._registry = registry
        self._now = now
        self._redact = redact

    def admit(self, items: Sequence[Item], *, processed: Sequence[Item]) -> Program[Sequence[Item]]:
        """Put causes before what they caused, and give what lacks one a verdict; the inbox knows what is processed."""
        for item in items:
            _reset(item)
        causes = yield from self._seen({item: self._causes_of(item) for item in items})
        wanted = frozenset[str]().union(*causes.values())
        if not wanted:
            return items
        ordered = _with_causes_first(items, causes)
        again = frozenset(item.message.id for item in processed)
        asked = sorted(wanted - again - {item.message.id for item in items})
        known = again.union((yield from self._claims.processed(self._name, asked)) if asked else ())
        judged = set[Item]()
        while lacking := self._lacking(ordered, causes, known, judged):
            yield from self._judge(lacking)
            judged |= lacking.keys()
        return ordered

    def passed(self, items: Sequence[Item]) -> Program[None]:
        """Make due what waits for the dead among ``items``; the intake has done so for all that was accepted."""
        if dead := [item for item in items if item.verdict is not None]:
            yield from _let_go(self._waits, self._name, dead)

    def _causes_of(self, item: Item) -> Sequence[Cause]:
        """Return the causes that a message names; one that cannot be read makes it dead."""
        if item.verdict is not None or not self._consumer.takes(item.message):
            return ()
        try:
            causes = item.message.causes
            if len(causes) > self._ordering.max_causes:
                reason = f"it names {len(causes)} causes, and {self._name} reads at most {self._ordering.max_causes}"
                raise DecodeError(message_type=item.message.type, reason=reason)
        except DecodeError as error:
            item.give_up("undecodable", error, at=self._now(), redact=self._redact)
            return ()
        return causes

    def _seen(self, named: Mapping[Item, Sequence[Cause]]) -> Program[Mapping[Item, frozenset[str]]]:
        """Return of the causes ``named`` those that this consumer sees, in any of its releases."""
        others = {one for causes in named.values() for one in causes if not sees(self._consumer, one)}
        may_be_seen = any(one.destination in self._consumer.channels for one in others)
        elsewhere = (yield from self._registry.types_of(self._name)) if may_be_seen else ()
        return {
            item: frozenset(one.id for one in causes if sees(self._consumer, one, elsewhere=elsewhere))
            for item, causes in named.items()
        }

    def _lacking(
        self,
        ordered: Sequence[Item],
        causes: Mapping[Item, frozenset[str]],
        processed: frozenset[str],
        judged: Collection[Item],
    ) -> dict[Item, frozenset[str]]:
        """Return of each key the first message that lacks causes and is not judged yet, with what it lacks."""
        lacking: dict[Item, frozenset[str]] = {}
        blocked = set[str]()
        before = set[str]()
        for item in ordered:
            if item.hold_key in blocked:
                continue
            item.relies_on = causes[item] & before
            missing = causes[item] - processed - before
            if missing and item not in judged:
                lacking[item] = missing
                blocked.add(item.hold_key)
            elif isinstance(item.verdict, RetryLater) or (
                item.verdict is not None and self._blocks_key and item.blocks
            ):
                blocked.add(item.hold_key)
            elif item.verdict is None and self._in_one_transaction:
                before.add(item.message.id)
        return lacking

    def _judge(self, lacking: Mapping[Item, frozenset[str]]) -> Program[None]:
        waiting_here = frozenset(item.message.id for item in lacking)
        places = yield from self._places(waiting_here.union(*lacking.values()))
        awaited: dict[Item, frozenset[str]] = {}
        for item, missing in lacking.items():
            on_their_way = frozenset(one for one in missing if one in places and places[one].hold_key is not None)
            is_replay = item.state is HeldState.REPLAYING  # an operator's word: it waits for no other
            if needed := on_their_way if is_replay else missing:
                awaited[item] = needed
        waiting = [
            Waiting(message_id=item.message.id, hold_key=item.hold_key, causes=missing)
            for item, missing in awaited.items()
        ]
        waited = yield from self._waits.wait(self._name, waiting)
        for item, missing in awaited.items():
            yield from self._decide(item, missing, places, waited[item.message.id])

    def _decide(
        self, item: Item, missing: frozenset[str], places: Mapping[str, Place], waited: timedelta
    ) -> Program[None]:
        message_id = item.message.id
        item.awaits = tuple(sorted(missing))
        decision = decide(
            self._ordering,
            waited=waited,
            is_dead=any(one in places and places[one].is_dead for one in missing),
            in_circle=is_circular(message_id, missing, places),
        )
        if decision.trouble is not None:
            item.notice = CauseMissing(
                consumer=self._name,
                message_id=message_id,
                causes=item.awaits,
                trouble=decision.trouble,
                outcome=self._ordering.when_missing,
                waited=waited,
            )
        elif waited < FIRST_LOOK:
            item.notice = CauseAwaited(consumer=self._name, message_id=message_id, causes=item.awaits)
        match decision:
            case Pass():
                item.awaits = ()
            case Wait(after=after):
                item.verdict = RetryLater(after)
            case GoToTheDead(trouble=trouble):
                self._bury(item, trouble)
                yield from self._waits.forget(self._name, [message_id])

    def _places(self, message_ids: frozenset[str]) -> Program[Mapping[str, Place]]:
        """Look where causes are, where theirs are, and so on."""
        places: dict[str, Place] = {}
        asked = set[str]()
        while message_ids and len(asked) < FOLLOWED:
            asked |= message_ids
            found = yield from self._waits.places(self._name, message_ids)
            places |= found
            further = frozenset[str]().union(*(place.needs for place in found.values())) - asked
            processed = (yield from self._claims.processed(self._name, sorted(further))) if further else ()
            message_ids = further.difference(processed)
        return places

    def _bury(self, item: Item, trouble: Trouble) -> None:
        error = CauseMissingError(consumer=self._name, causes=item.awaits, trouble=trouble)
        item.give_up("cause-missing", error, at=self._now(), redact=self._redact)


class CausalIntake(Around):
    """An intake that sees to it that nothing waits for a cause longer than it has to."""

    def __init__(self, inner: Intake, consumer: str, *, waits: WaitStore, claims: ClaimStore) -> None:
        """Do what ``inner`` does."""
        super().__init__(inner)
        self._name = consumer
        self._waits = waits
        self._claims = claims

    def accept(self, items: Sequence[Item], done: Sequence[Item]) -> Program[None]:
        """Make due what waits for what is done, duplicates among it: they were processed, under whatever id."""
        yield from self._inner.accept(items, done)
        if done:
            yield from _let_go(self._waits, self._name, done)

    def bury(self, items: Sequence[Item]) -> Program[None]:
        """Forget what the dead waited for: nobody looks whether it has come."""
        yield from self._inner.bury(items)
        yield from self._waits.forget(self._name, [item.message.id for item in items])

    def retry_later(self, items: Sequence[Item]) -> Program[None]:
        """Look once more for what was committed since the gate looked, now that it is written who waits."""
        yield from self._inner.retry_later(items)
        waiting = [item for item in items if item.awaits]
        if not waiting:
            return
        awaited = sorted(frozenset[str]().union(*(item.awaits for item in waiting)))
        processed = set((yield from self._claims.processed(self._name, awaited)))
        if due := {item.hold_key for item in waiting if processed.intersection(item.awaits)}:
            yield from self._waits.look_again(self._name, due)


def _let_go(waits: WaitStore, consumer: str, items: Sequence[Item]) -> Program[None]:
    """Make due what waits for ``items``, and forget what they waited for."""
    ids = [item.message.id for item in items]
    if hold_keys := (yield from waits.waited_for(consumer, ids)):
        yield from waits.look_again(consumer, hold_keys)
    yield from waits.forget(consumer, ids)


def _with_causes_first(items: Sequence[Item], causes: Mapping[Item, frozenset[str]]) -> Sequence[Item]:
    """Return ``items`` with causes before what they caused, each with what was before it in its own line.

    Where causes and lines contradict each other, the lines stay as they are.
    """
    lines: dict[str, list[Item]] = {}
    at: dict[str, int] = {}
    for number, item in enumerate(items):
        lines.setdefault(item.hold_key, []).append(item)
        at[item.message.id] = number
    needs: dict[Item, list[Item]] = {}
    for number, item in enumerate(items):
        for cause in (items[at[one]] for one in sorted(causes[item]) if at.get(one, -1) > number):
            line = lines[cause.hold_key]
            needs.setdefault(item, []).extend(line[: line.index(cause) + 1])
    if not needs:
        return items
    ordered = arranged(items, needs)
    kept: dict[str, list[Item]] = {}
    for item in ordered:
        kept.setdefault(item.hold_key, []).append(item)
    return ordered if kept == lines else items


def _reset(item: Item) -> None:
    """Forget what this gate decided about ``item`` in a transaction that was rolled back."""
    if item.awaits:
        if isinstance(item.verdict, GiveUp):
            item.history = item.history[:-1]
        item.verdict, item.error, item.awaits, item.notice = None, None, (), None
