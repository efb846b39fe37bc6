"""A consumer as declared: one handler, its durable name, and how its messages are treated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from pillarbox.channel import is_queue
from pillarbox.consumer.injection import Handler, Signature, function_of
from pillarbox.holding import EVERYTHING, channel_hold_key_of, hold_key_of
from pillarbox.message import Message
from pillarbox.ordering import ByKey, BySequence, Causal, Ordering, SingleConsumer
from pillarbox.retry import FailureRule, Retry
from pillarbox.routing import Route
from pillarbox.serialization import UNREADABLE

WhenDead: TypeAlias = Literal["hold-key", "skip", "stop"]
Idempotency: TypeAlias = Literal["inbox", "natural"]
DedupeBy: TypeAlias = str | Callable[[Any], object]  # Any: a lambda's parameter cannot be inferred here


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """What can be said about a consumer.

    Attributes:
        name: its durable identity within the service.
        retry: how failures are retried.
        ordering: whether messages of a key wait for each other.
        when_dead: whether a dead message holds its key until someone decides, or later ones go on, or it stops the
            whole consumer in every process; ``None`` holds the key where order is kept.
        idempotency: ``natural`` keeps no inbox: the handler can be run again without harm.
        concurrency: how many lanes of keys are handled side by side in one process; ``None`` for four, or for one
            where the store has a single writer.
        timeout: how long an asynchronous handler may take for one message.
        renamed_from: the name it had before; its inbox, held and dead messages and subscriptions are taken over.
        outside: the handler talks to the outside world and asks for no transaction; needed to say so with an inbox.
        dedupe_by: a field, or a function of the payload, whose value tells that two messages of a type mean the same:
            of messages with the same value one has an effect, whatever their ids.
        channel: where it receives its messages from, if not from the channels that their types name: what a router
            forwards to ``express`` is handled with ``channel="express"``.
        batch: how many messages its handler takes at once, as a list; when it fails with several, they are divided
            until those that do not fail are through, and only what fails alone counts as an attempt.
        needs: the name of what its handler calls, a payment provider say; while that is down the consumer pauses. See
            ``Pillarbox.dependency``.
        failures: which exceptions are permanent, which transient, before what the box says.
        publishes: the message types that its handler publishes or sends through its context; those that it returns are
            read from its annotation. For the graph of a flow; nothing is refused at run time.
    """

    name: str | None = None
    retry: Retry = field(default_factory=Retry)
    ordering: Ordering = field(default_factory=ByKey)
    when_dead: WhenDead | None = None
    idempotency: Idempotency | None = None
    concurrency: int | None = None
    timeout: timedelta | None = None
    outside: bool = False
    renamed_from: str | None = None
    channel: str | None = None
    batch: int | None = None
    needs: str | None = None
    failures: Sequence[FailureRule] = ()
    dedupe_by: DedupeBy | None = None
    publishes: Sequence[type[object]] = ()

    @property
    def is_ordered(self) -> bool:
        """Whether messages of a key wait for each other."""
        return isinstance(self.ordering, ByKey | BySequence)

    @property
    def keeps_arrival_order(self) -> bool:
        """Whether messages of a key are handled in the order in which they come; numbers have an order of their own."""
        return isinstance(self.ordering, ByKey)

    @property
    def blocks_key(self) -> bool:
        """Whether nothing of a dead message's key goes on."""
        return (self.when_dead or ("hold-key" if self.is_ordered else "skip")) != "skip"

    @property
    def is_alone(self) -> bool:
        """Whether one message at a time is handled over all processes."""
        return isinstance(self.ordering, SingleConsumer)

    @property
    def stops(self) -> bool:
        """Whether a dead message stops the whole consumer."""
        return self.when_dead == "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """A handler as it was declared.

    Attributes:
        types: the message classes it handles.
        route: what decides, where messages are forwarded instead of handled.
    """

    handler: Handler
    types: tuple[type[object], ...]
    options: ConsumerOptions
    route: Route | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """A consumer of one box, checked and ready.

    Attributes:
        identity: ``<service>/<name>``.
        channels: the addresses it receives from.
        message_types: the logical names it handles.
        route: what decides, where messages are forwarded instead of handled.
    """

    identity: str
    handler: Handler
    signature: Signature
    options: ConsumerOptions
    channels: tuple[str, ...]
    message_types: frozenset[str]
    route: Route | None = None

    def takes(self, message: Message) -> bool:
        """Tell whether ``message`` is for it: what else comes by its topics is not; a queue has nobody else.

        What nobody can read may have been for anybody, and must not be lost in silence.
        """
        return self.knows(message) or is_queue(message.destination)

    def knows(self, message: Message) -> bool:
        """Tell whether the type of ``message`` is declared for it, or need not be."""
        takes_all = self.route is not None and not self.route.types
        return takes_all or message.type in self.message_types or message.type == UNREADABLE

    def lanes(self, default: int) -> int:
        """Return how many lanes it has in a process."""
        return 1 if self.options.is_alone else self.options.concurrency or default

    def hold_key_of(self, message: Message) -> str:
        """Return what ``message`` is held under when it must wait, and what then waits behind it."""
        match self.options.ordering:
            case Causal():
                return channel_hold_key_of(message)
            case SingleConsumer():
                return EVERYTHING
            case _:
                return hold_key_of(message, ordered=self.options.is_ordered)

    def lane_key_of(self, message: Message) -> str:
        """Return what keeps ``message`` in a lane with others: its key, of whichever channel."""
        return hold_key_of(message, ordered=self.options.is_ordered)

    @property
    def gets_messages(self) -> bool:
        """Whether its handler gets messages as they are: their bodies are not read for it."""
        return self.route is not None or self.signature.payload == list[Message]

    @property
    def package(self) -> str:
        """The top-level package of its handler."""
        module: object = function_of(self.handler).__module__  # what is written in C may have none
        return str(module or "").partition(".")[0]

    @property
    def mode(self) -> str:
        """How its effects are kept: ``transaction``, or ``outside`` at least once under a claim."""
        return "outside" if self.signature.transaction is None else "transaction"

    @property
    def needs(self) -> str | None:
        """What its handler calls, as ``<service>/<name>``."""
        return None if self.options.needs is None else f"{self.identity.partition('/')[0]}/{self.options.needs}"

    @property
    def deduplicates(self) -> bool:
        """Whether its processed ids are recorded."""
        return self.options.idempotency != "natural"
