"""The sagas of a box: what it includes, what starts them, and what runs them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pillarbox.app.assembly import Parts, calls_of
from pillarbox.channel.wakeup import Wakeup
from pillarbox.consumer import Consumer, Handlers, Providers
from pillarbox.errors import ConfigurationError, DecodeError, InvalidSetupError
from pillarbox.message import Limits, queue_destination
from pillarbox.observe import Event, MessageHandled, Observer, Observers
from pillarbox.relational import RelationalStore
from pillarbox.rounds import Loop
from pillarbox.saga import Saga
from pillarbox.saga.catalogue import Catalogue, taken_over
from pillarbox.saga.invoking import Invoker
from pillarbox.saga.journal import decode_journal
from pillarbox.saga.orchestrator import SagaOrchestrator, Workplace
from pillarbox.saga.replies import CONSUMER, Replies
from pillarbox.saga.resolve import resolve_sagas
from pillarbox.saga.rules import Rules
from pillarbox.saga.sagas import Sagas, broken
from pillarbox.saga.state import StateCodec
from pillarbox.saga.store import SagaCount, SagaFilter
from pillarbox.serialization import Codec

READ_AT_MOST = 1_000
"""So many sagas of each status are read by a check."""


@dataclass(slots=True)
class Included:
    """The sagas that a box includes, and the consumers that start them."""

    service: str
    sagas: list[Saga[Any]] = field(default_factory=list[Saga[Any]])
    starters: dict[Saga[Any], Handlers] = field(default_factory=dict[Saga[Any], Handlers])

    def add(self, saga: Saga[Any], starter: Handlers | None) -> None:
        """Include ``saga``, and what starts it; twice is as good as once.

        Raises:
            ConfigurationError: a message of another type starts it already.
        """
        if saga not in self.sagas:
            self.sagas.append(saga)
        if starter is None:
            return
        known = self.starters.setdefault(saga, starter).declarations[0].types
        if known != starter.declarations[0].types:
            raise ConfigurationError(
                f"saga {saga.name!r} is started by {known[0].__qualname__} already; have a handler of the other one "
                "call box.sagas.start"
            )

    def runs(self, saga: Saga[Any]) -> bool:
        """Tell whether what is included drives what is started as ``saga``."""
        return any(one.name == saga.name and saga.version in (one.version, *taken_over(one)) for one in self.sagas)

    def catalogue(self, providers: Providers, codec: Codec) -> Catalogue:
        """Return the definitions.

        Raises:
            InvalidSetupError: lists everything that is wrong with them.
        """
        catalogue = Catalogue(resolve_sagas(self.sagas, service=self.service, provided=providers.by_type))
        for definition in catalogue.definitions:
            codec.prepare(definition.state)
        return catalogue


def sagas_of(
    store: RelationalStore, *, service: str, codec: Codec, limits: Limits, runs: Callable[[Saga[Any]], bool]
) -> Sagas:
    """Return the sagas of ``service`` in ``store``, which ``runs`` some of them; connects to nothing."""
    return Sagas(
        service,
        store,
        acts=store.operators.acts,
        source=store,
        states=StateCodec(codec, limits),
        runs=runs,
    )


def replies_address(service: str) -> str:
    """Return where the answers to the commands of a service's sagas come to."""
    return queue_destination(f"{service}.replies")


def rules_of(parts: Parts, limits: Limits) -> Rules:
    """Return what the courses of all sagas of a box have in common."""
    return Rules(
        service=parts.service,
        replies=replies_address(parts.service),
        invoker=Invoker(parts.providers),
        states=StateCodec(parts.codec, limits, parts.registry),
        outbox=parts.outbox,
        calls=calls_of(parts.store, parts.codec, clock=parts.clock, hold=parts.relay.lease),
        locks=parts.store.saga_locks,
        classification=parts.classification,
        redact=parts.redact,
        translate=parts.store.translate,
        now=parts.clock.now,
        dice=random.random,
        new_token=parts.new_id,
    )


def reply_handlers(catalogue: Catalogue, rules: Rules, store: RelationalStore) -> Sequence[Handlers]:
    """Return the consumer of the replies, where anything is awaited."""
    awaits = any(
        act is not None and (act.replies or act.child is not None)
        for definition in catalogue.definitions
        for stage in definition.stages
        for step in stage
        for act in (step.do, step.undo)
    )
    return [Replies(catalogue, rules, store.sagas).handlers()] if awaits else []


def is_of_replies(consumer: Consumer) -> bool:
    """Tell whether ``consumer`` is the one of the replies, which runs where sagas do."""
    return consumer.identity.endswith(f"/{CONSUMER}")


async def check_stored(catalogue: Catalogue, store: RelationalStore) -> None:
    """Make sure that the definitions can go on with what is under way, and keep their steps for the next time.

    Raises:
        InvalidSetupError: the steps of a version have changed while instances of it are under way.
    """
    stored = await store.run(store.saga_archive.definitions())
    ours = {key: graph for key, graph in stored.items() if key in catalogue.graphs}
    if problems := broken(catalogue, ours):
        raise InvalidSetupError(problems=problems)
    await store.run(store.saga_archive.note_definitions(catalogue.own_graphs))


async def breaks_of(
    catalogue: Catalogue, codec: Codec, store: RelationalStore, service: str
) -> tuple[ConfigurationError, ...]:
    """Return what the definitions cannot go on with, of what ``service`` has under way in ``store``."""
    stored = await store.run(store.saga_archive.definitions())
    counts = await store.run(store.saga_archive.counts())
    under_way = [one for one in counts if not one.status.is_ended and one.saga.startswith(f"{service}/")]
    started = {(one.saga, one.version) for one in under_way}
    unrun = {key: "" for key in started if catalogue.get(*key) is None}  # perhaps by nobody yet, so there is no graph
    ours = {key: graph for key, graph in {**unrun, **stored}.items() if key[0].startswith(f"{service}/")}
    return (*broken(catalogue, ours), *await _unreadable(catalogue, StateCodec(codec, Limits()), store, under_way))


async def _unreadable(
    catalogue: Catalogue, states: StateCodec, store: RelationalStore, under_way: Sequence[SagaCount]
) -> list[ConfigurationError]:
    """Return what is under way and cannot be read by its definition: one of each version, of those changed last."""
    problems: dict[tuple[str, int], ConfigurationError] = {}
    for kind in under_way:  # each by itself: of an old version there are few, and new ones have changed since
        definition = catalogue.get(kind.saga, kind.version)
        if definition is None:
            continue
        wanted = SagaFilter(saga=kind.saga, version=kind.version, status=kind.status)
        for one in await store.run(store.saga_archive.find(wanted, limit=READ_AT_MOST)):
            if (one.saga, one.version) in problems:
                break
            for details in await store.run(store.saga_archive.get(one.saga_id, saga=one.saga)):
                try:
                    definition.adopted(decode_journal(details.journal), version=one.version)
                    states.read_state(details.state, definition, one.version)
                except DecodeError as error:
                    problems[one.saga, one.version] = ConfigurationError(
                        f"{one.saga} version {definition.version} cannot read instance {one.saga_id!r} of version "
                        f"{one.version}, which is under way: {error.reason}; mend the steps, the upcaster or the state"
                    )
    return [problems[key] for key in sorted(problems)]


def orchestrator_of(catalogue: Catalogue, rules: Rules, parts: Parts, wakeup: Wakeup) -> Loop:
    """Make what runs the sagas of ``catalogue``."""
    around = Workplace(store=parts.store.sagas, source=parts.store, clock=parts.clock, observer=parts.observers)
    return SagaOrchestrator(
        catalogue,
        rules,
        around,
        wakeup=wakeup,
        on_published=parts.outbox_wakeup.ring,
    )


def waking(observers: Observers, wakeup: Wakeup, *, service: str) -> Observers:
    """Return observers that also wake the orchestrator of this process when a reply was written down."""
    return Observers([observers, _RingOnReply(wakeup, f"{service}/{CONSUMER}", f"{service}/start-")])


class _RingOnReply(Observer):
    def __init__(self, wakeup: Wakeup, replies: str, starters: str) -> None:
        self._wakeup = wakeup
        self._replies = replies
        self._starters = starters

    def notice(self, event: Event, /) -> None:
        if isinstance(event, MessageHandled) and (
            event.consumer == self._replies or event.consumer.startswith(self._starters)
        ):
            self._wakeup.ring()
