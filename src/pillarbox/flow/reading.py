"""Reads the graph out of what consumers declare: the first parameter, what is returned, ``publishes=``, routes."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, Union, get_args, get_origin

from pillarbox.consumer import Consumer, Context
from pillarbox.consumer.injection import CONTEXTS
from pillarbox.flow.definition import Flow
from pillarbox.flow.graph import Graph
from pillarbox.flow.participant import Participant, Passage
from pillarbox.message import is_message, message_type_of
from pillarbox.routing import MessageFilter

UNIONS = (Union, types.UnionType)
SEVERAL = (tuple, list, Sequence)
NOTHING = object()


def graph_of(consumers: Iterable[Consumer], homes: Mapping[str, str], flows: Iterable[Flow] = ()) -> Graph:
    """Return the graph of ``consumers``.

    Args:
        consumers: those of one box.
        homes: the channel that each known type is sent to.
        flows: whose events are marked.
    """
    declared = list(consumers)
    handlers = [_handler(one, homes) for one in declared if one.route is None]
    routes = [one for one in declared if one.route is not None]
    told = list(flows)
    return Graph(
        participants=tuple(sorted([*handlers, *_routes(routes, homes, handlers)], key=lambda one: one.consumer)),
        starts=tuple(dict.fromkeys(kind for flow in told for kind in flow.starts)),
        ends=tuple(dict.fromkeys(kind for flow in told for kind in flow.ends)),
    )


def messages_in(annotation: object) -> tuple[type[Any], ...]:
    """Return the message classes that the annotation of what a function returns names."""
    return tuple(kind for kind in _parts(annotation) if kind not in (NOTHING, NoneType))


def _handler(consumer: Consumer, homes: Mapping[str, str]) -> Participant:
    signature, said = consumer.signature, consumer.options.publishes
    returned, answers = list(_parts(signature.returns)), messages_in(signature.returns)
    published = [*(_passage(kind) for kind in answers), *(_passage(kind) for kind in said)]
    takes_context = any(kind in (Context, CONTEXTS) for kind in signature.wants.values())
    is_open = not said and (NOTHING in returned or (takes_context and not answers))
    return Participant(
        consumer=consumer.identity,
        hears=tuple(sorted(_heard(consumer, homes))),
        publishes=tuple(sorted(set(published))),
        may_be_silent=not is_open and (not answers or NoneType in returned),
        is_open=is_open,
    )


def _heard(consumer: Consumer, homes: Mapping[str, str]) -> set[Passage]:
    heard = set[Passage]()
    for kind in consumer.message_types:
        home = homes.get(kind)
        at = [home] if home is not None and home in consumer.channels else consumer.channels
        heard.update(Passage(kind, channel) for channel in at)
    return heard


def _parts(annotation: object) -> Iterator[Any]:
    """Return the message classes in an annotation; ``NoneType``: there may be none, ``NOTHING``: it does not tell."""
    if annotation is NoneType:
        yield NoneType
    elif get_origin(annotation) in (*UNIONS, *SEVERAL):
        if get_origin(annotation) in (list, Sequence) or Ellipsis in get_args(annotation):
            yield NoneType  # it may be empty
        for part in get_args(annotation):
            if part is not Ellipsis:
                yield from _parts(part)
    elif isinstance(annotation, type) and is_message(annotation):
        yield annotation
    else:
        yield NOTHING


def _passage(kind: type[object]) -> Passage:
    declared = message_type_of(kind)
    return Passage(declared.name, declared.destination)


def _routes(routes: Sequence[Consumer], homes: Mapping[str, str], handlers: Sequence[Participant]) -> list[Participant]:
    """Return the routes; what one forwards another may hear, so this is repeated until nothing is added."""
    known = {Passage(kind, channel) for kind, channel in homes.items()}
    known.update(each for one in handlers for each in (*one.hears, *one.publishes))
    found: list[Participant] = []
    before = -1
    while len(known) > before:
        before = len(known)
        found = [_route(one, known) for one in routes]
        known.update(copy for one in found for copy in one.publishes)
    return found


def _route(consumer: Consumer, known: set[Passage]) -> Participant:
    route = consumer.route
    assert route is not None, "only routes are given"
    heard = {
        passage
        for passage in known
        if passage.channel in consumer.channels and (not route.types or passage.type in consumer.message_types)
    }
    copies = {Passage(passage.type, channel) for passage in heard for channel in route.outputs}
    return Participant(
        consumer=consumer.identity,
        hears=tuple(sorted(heard)),
        publishes=tuple(sorted(copies)),
        forwards=True,
        may_be_silent=isinstance(route, MessageFilter),
    )
