"""From declarations to consumers: everything that can be wrong is found here, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

from pillarbox.channel import BrokerCapabilities, address_of
from pillarbox.consumer.context import Context
from pillarbox.consumer.injection import CONTEXTS, Handler, Provider, function_of, signature_of
from pillarbox.consumer.remembering import check_dedupe_by, retention_problems
from pillarbox.consumer.spec import Consumer, Declaration
from pillarbox.errors import (
    ConfigurationError,
    DuplicateConsumerError,
    InvalidSetupError,
    UnsatisfiedInjectionError,
)
from pillarbox.errors.values import FROM_ONE, SOME_TIME, check_values
from pillarbox.idempotency import InboxSettings
from pillarbox.message import MessageType, check_name, is_message, message_type_of
from pillarbox.message.names import full_name
from pillarbox.ordering import BySequence, Causal

DEFAULT_INBOX = InboxSettings()


def resolve(
    declarations: Sequence[Declaration],
    *,
    service: str,
    provided: Mapping[type[object], Provider],
    names_required: bool,
    inbox: InboxSettings = DEFAULT_INBOX,
) -> tuple[Consumer, ...]:
    """Check ``declarations`` and return the consumers they mean; their inboxes are kept as ``inbox`` says.

    Raises:
        InvalidSetupError: lists every problem found.
    """
    problems: list[ConfigurationError] = []
    consumers: list[Consumer] = []
    for declaration in declarations:
        try:
            consumers.append(_consumer(declaration, service, provided, names_required=names_required))
        except ConfigurationError as error:
            problems.append(error)
        if declaration.route is not None:
            problems += declaration.route.problems()
    problems += _clashes(consumers)
    problems += [problem for consumer in consumers for problem in retention_problems(consumer, inbox)]
    if problems:
        raise InvalidSetupError(problems=problems)
    return tuple(consumers)


def _consumer(
    declaration: Declaration, service: str, provided: Mapping[type[object], Provider], *, names_required: bool
) -> Consumer:
    options, handler = declaration.options, declaration.handler
    where = _place(declaration)
    check_values(options, where=f"{where}: ", concurrency=FROM_ONE, batch=FROM_ONE, timeout=SOME_TIME)
    if options.name is None and names_required:
        raise ConfigurationError(
            f"{where}: give it name=…; on this store the name is its identity, which a renamed function must not lose"
        )
    said = _name_from(handler) if options.name is None else options.name
    name = check_name(said, what=f"the name of consumer {where}")
    types = [message_type_of(kind) for kind in declaration.types]
    for kind in options.publishes:
        message_type_of(kind)
    if not types and declaration.route is None:
        raise ConfigurationError(f"{where}: name the message types that it handles, as in on(OrderPlaced)")
    signature = signature_of(handler, owner=where)
    if missing := signature.missing(provided):
        raise UnsatisfiedInjectionError(
            problems=[f"{where}: nothing provides {parameter}; use box.provide(Type, factory)" for parameter in missing]
        )
    consumer = Consumer(
        identity=full_name(service, name, what="consumer"),
        handler=handler,
        signature=signature,
        options=options,
        channels=_channels(declaration, types),
        message_types=frozenset(kind.name for kind in types),
        route=declaration.route,
    )
    if declaration.route is None:
        _check_payload(signature.payload, declaration, where)
    _check_options(consumer, declaration, where)
    if isinstance(options.ordering, BySequence):
        _check_sequence(consumer, types, where)
    return consumer


def _channels(declaration: Declaration, types: Sequence[MessageType]) -> tuple[str, ...]:
    if declaration.route is not None:
        return declaration.route.source
    if declaration.options.channel is not None:
        return (address_of(declaration.options.channel),)
    return tuple(dict.fromkeys(kind.destination for kind in types))


def _check_options(consumer: Consumer, declaration: Declaration, where: str) -> None:
    options = consumer.options
    if consumer.mode == "outside" and options.idempotency == "inbox" and not options.outside:
        raise ConfigurationError(
            f"{where}: idempotency='inbox' without a transaction cannot cover its effects; "
            "ask for a transaction, or say outside=True"
        )
    if options.is_alone and (options.concurrency or 1) > 1:
        raise ConfigurationError(
            f"{where}: SingleConsumer() handles one message at a time, concurrency={options.concurrency} more; "
            "leave it out, or use ByKey()"
        )
    if options.when_dead == "hold-key" and not options.is_ordered:
        raise ConfigurationError(f"{where}: when_dead='hold-key' needs an order to keep; use ByKey(), or 'skip'")
    if options.needs is not None:
        check_name(options.needs, what=f"what {where} needs")
    if isinstance(options.ordering, Causal) and not consumer.deduplicates:
        raise ConfigurationError(
            f"{where}: Causal() asks the inbox what was processed; leave idempotency='natural' out, or use ByKey()"
        )
    if options.batch is not None:
        _check_batch(consumer, options.batch, where)
    elif CONTEXTS in consumer.signature.wants.values():
        raise ConfigurationError(f"{where}: it handles one message at a time; ask for Context, or say batch=…")
    check_dedupe_by(declaration, where)
    if options.timeout is not None and not consumer.signature.is_async:
        raise ConfigurationError(f"{where}: timeout= cannot stop a plain function; make it an `async def`")


def _check_payload(annotation: object, declaration: Declaration, where: str) -> None:
    """Refuse an annotation of other messages than those that will come."""
    if declaration.options.batch is not None:
        annotation = next(iter(get_args(annotation)), None)
    said = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    classes = tuple(one for one in said if isinstance(one, type) and is_message(one))
    if len(classes) < len(said):
        return  # more than messages, as a base class or nothing at all
    names = {message_type_of(one).name for one in classes}
    for kind in declaration.types:
        if message_type_of(kind).name not in names and not issubclass(kind, classes):
            raise ConfigurationError(
                f"{where}: it is declared on {kind.__qualname__}, and its first parameter is annotated "
                f"{getattr(annotation, '__qualname__', annotation)}; name the same in both places"
            )


def _check_batch(consumer: Consumer, batch: int, where: str) -> None:
    signature = consumer.signature
    if signature.transaction is None:
        raise ConfigurationError(f"{where}: batch={batch} needs a transaction that covers the batch; ask for one")
    payload = signature.payload
    if payload is not None and (get_origin(payload) or payload) not in (list, Sequence):
        raise ConfigurationError(f"{where}: with batch={batch} its first parameter is a list; annotate it so")
    if Context in signature.wants.values():
        raise ConfigurationError(f"{where}: each message of a batch has a context; ask for `contexts: list[Context]`")
    if signature.returns not in (None, NoneType):
        raise ConfigurationError(
            f"{where}: what it returns for a batch follows from none of its messages; return nothing, "
            "ask for `contexts: list[Context]` and publish through the context of the message that is the reason"
        )


def _check_sequence(consumer: Consumer, types: Sequence[MessageType], where: str) -> None:
    if plain := sorted({kind.name for kind in types if not kind.numbered}):
        raise ConfigurationError(
            f"{where}: BySequence() goes by numbers, and {', '.join(plain)} bears none; declare it with numbered=True"
        )
    if consumer.options.dedupe_by is not None:
        raise ConfigurationError(
            f"{where}: BySequence() handles every number; with dedupe_by= some would be left out, and the others would "
            "wait for them for ever; leave dedupe_by= out, or use ByKey()"
        )
    if not consumer.deduplicates:
        raise ConfigurationError(
            f"{where}: BySequence() needs the inbox: without it a message that comes again could not be told from "
            "another one with the same number; leave idempotency='natural' out"
        )


def _clashes(consumers: Sequence[Consumer]) -> list[ConfigurationError]:
    """Find consumers of one name, and commands with more than one consumer."""
    taken: dict[str, Consumer] = {}
    problems: list[ConfigurationError] = []
    for consumer in consumers:
        queues = [channel for channel in consumer.channels if channel.startswith("queue:")]
        for claimed in [consumer.identity, *queues]:
            other = taken.setdefault(claimed, consumer)
            if other is not consumer:
                first, second = _owner(other), _owner(consumer)
                problems.append(DuplicateConsumerError(consumer=claimed, first=first, second=second))
    return problems


def _name_from(handler: Handler) -> str:
    function = function_of(handler)
    called_on: object = getattr(function, "__self__", None)
    name = type(called_on).__name__ if function.__name__ == "__call__" else function.__name__
    return name.replace("_", "-").strip("-").lower()


def _place(declaration: Declaration) -> str:
    return declaration.options.name or _function(declaration.handler)


def _owner(consumer: Consumer) -> str:
    route = consumer.route
    return _function(consumer.handler) if route is None else f"{type(route).__name__} {route.name!r}"


def _function(handler: Handler) -> str:
    function = function_of(handler)
    return f"{function.__module__}.{function.__qualname__}"


def declared_types(declarations: Sequence[Declaration]) -> list[MessageType]:
    """Return the message types that ``declarations`` name."""
    return [message_type_of(kind) for declaration in declarations for kind in declaration.types]


def check_rename(consumer: Consumer, broker: BrokerCapabilities) -> None:
    """Refuse to rename a consumer whose place lies in a broker: what waits there under the old name would be lost.

    Raises:
        ConfigurationError: the broker keeps messages, and not in the database where the name is changed.
    """
    if broker.durable and not broker.transactional:
        old = consumer.options.renamed_from
        raise ConfigurationError(
            f"{consumer.identity} is renamed from {old!r}, and what waits in the broker under that name would never be "
            f"handled; keep name={old!r}, or let it drain and start the new consumer without renamed_from"
        )
