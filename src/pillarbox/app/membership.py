"""A process among the others of its service: that it lives, and which consumers it has."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Protocol

from pillarbox.app.assembly import Parts
from pillarbox.app.background import keeper_of
from pillarbox.app.depending import needed_by
from pillarbox.app.running import OnceDeclared
from pillarbox.channel import Subscription
from pillarbox.consumer import Consumer
from pillarbox.consumer.registry import ConsumerRegistry
from pillarbox.consumer.resolve import check_rename
from pillarbox.errors import BrokerUnavailableError, InvalidSetupError, PillarboxError, UnregisteredConsumerError
from pillarbox.flow import Participant
from pillarbox.flow.record import TRACKER
from pillarbox.lease import LeaseKeeper, repeated
from pillarbox.observe import Observer, WorkerFaltered
from pillarbox.relational.idempotency import WORKERS
from pillarbox.rounds import Loop, Rounds


class Enlist(Protocol):
    """Declares what a process needs."""

    @abstractmethod
    async def __call__(self, *, is_back: bool) -> None:
        """Declare it, and again when it ``is_back``, having been taken for dead."""


class Membership(Rounds):
    """Tells the other processes that this one lives, so that its messages under way are not taken for crashed.

    And which consumers it has, so that a process of another release does not take those for gone, nor discards what
    they alone handle. One that stood still for longer than its lease was taken for dead: it enlists again.
    """

    def __init__(
        self,
        keeper: LeaseKeeper,
        observer: Observer,
        *,
        registry: ConsumerRegistry,
        consumers: Mapping[str, Collection[str]],
        enlist: Enlist,
        declare: Callable[[], Awaitable[None]],
    ) -> None:
        """Renew the membership of ``keeper``, and that this process has ``consumers`` with the types they handle.

        Args:
            keeper: of the scope of all processes that handle messages.
            observer: told when a round fails.
            registry: where the consumers of all processes are told of.
            consumers: each with the types of messages that it handles.
            enlist: declares what they need.
            declare: has their messages come from now on; what comes for a process that never starts waits for ever.
        """
        super().__init__("membership", every=keeper.terms.ttl / 6, clock=keeper.clock, observer=observer)
        self._keeper = keeper
        self._registry = registry
        self._consumers = consumers
        self._enlist = enlist
        self._declare = declare
        self._was_enlisted = False
        self._is_enlisted = False
        self._is_declared = False

    async def round(self) -> None:
        """Stay a member, or become one again, and have declared what a broker that was away knows nothing of."""
        await self._become_member()
        if not self._is_declared:
            async with self._staying():
                await self._have_messages_come()

    def once_declared(self, loops: Iterable[Loop]) -> list[Loop]:
        """Have ``loops``, of consumers or of a relay that must not be quicker, wait until their messages come."""
        return [OnceDeclared(loop, is_declared=lambda: self._is_declared, clock=self._clock) for loop in loops]

    async def _become_member(self) -> None:
        await self._stay()
        if not self._is_enlisted:
            await self._enlist_as_member()

    async def _stay(self) -> None:
        """Renew; whoever was taken for dead meanwhile has to enlist again."""
        await self._keeper.keep()
        owner, ttl = self._keeper.owner, self._keeper.terms.ttl
        if not await self._keeper.source.run(self._registry.attend(self._consumers, owner=owner, ttl=ttl)):
            self._is_enlisted = False

    def _staying(self) -> AbstractAsyncContextManager[None]:
        """Stay a member during the block: a broker may need longer to declare than a lease lasts."""
        return repeated(self._stay, every=self._every, clock=self._clock)

    async def _enlist_as_member(self) -> None:
        self._is_enlisted = True  # until a renewal beside it finds that the lease has ended
        try:
            async with self._staying():
                await self._enlist(is_back=self._was_enlisted)
        except BaseException:
            self._is_enlisted = False
            raise
        self._was_enlisted = True
        self._is_declared = False

    async def _have_messages_come(self) -> None:
        await self._declare()
        self._is_declared = True

    @asynccontextmanager
    async def joined(self) -> AsyncGenerator[None]:
        """Become a member before the block; a process whose start is refused there, or in the block, is none.

        Only behind it messages come: one that is refused leaves none that wait for it. Where the broker is away they
        come when a later round finds it; observers are told.

        Raises:
            InvalidSetupError: what cannot go on with these consumers.
        """
        try:
            await self._become_member()
            async with self._staying():
                yield
                try:
                    await self._have_messages_come()
                except BrokerUnavailableError as error:
                    self._observer.notice(WorkerFaltered.by(error, worker=self._name, retry_after=self._every))
        except BaseException:
            with suppress(PillarboxError):  # what was refused is told, and the lease ends by itself
                await self.leave()
            raise

    async def leave(self) -> None:
        """Sign off."""
        await self._keeper.leave()
        await self._keeper.source.run(self._registry.leave(self._consumers, owner=self._keeper.owner))


def membership_of(
    parts: Parts, consumers: Sequence[Consumer] = (), participants: Sequence[Participant] = ()
) -> Membership:
    """Make the heartbeat of this process, which has ``consumers``, as which ``participants`` take part in flows."""
    subscriptions = [Subscription(consumer=one.identity, channels=one.channels) for one in consumers]
    return Membership(
        keeper_of(parts, WORKERS, slots=0),
        parts.observers,
        registry=parts.store.consumers,
        consumers={one.identity: one.message_types for one in consumers},
        enlist=partial(_enlist, parts, consumers, subscriptions, participants),
        declare=partial(parts.broker.declare, subscriptions),
    )


async def _enlist(
    parts: Parts,
    consumers: Sequence[Consumer],
    subscriptions: Sequence[Subscription],
    participants: Sequence[Participant],
    *,
    is_back: bool,
) -> None:
    store, service = parts.store, parts.service
    for consumer in consumers:
        if consumer.options.renamed_from is not None:
            check_rename(consumer, parts.broker.capabilities)
            await store.run(store.consumers.rename(f"{service}/{consumer.options.renamed_from}", consumer.identity))
    elsewhere = await store.run(store.consumers.elsewhere(service, [one.identity for one in consumers]))
    watch = f"{service}/{TRACKER}"  # its process may be about to start anew; if none does, it is retired after a while
    spared = [watch] if await store.run(store.consumers.types_of(watch)) else []
    stranded = await store.run(store.consumers.enlist(service, subscriptions, is_back=is_back, spared=spared))
    if stranded:
        raise InvalidSetupError(
            problems=[
                UnregisteredConsumerError(consumer=consumer, pending=pending) for consumer, pending in stranded.items()
            ]
        )
    await store.run(store.circuits.enlist(service, needed_by(consumers), elsewhere))
    await store.run(store.flows.participants.enlist(service, participants, elsewhere))
