"""A flow as declared: with what it starts and ends, and how long what lies between may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from pillarbox.errors import ConfigurationError
from pillarbox.errors.values import Bounds, check_value
from pillarbox.flow.participant import Passage
from pillarbox.message import check_name, message_type_of

Classes: TypeAlias = type[object] | Sequence[type[object]]
A_WHILE = Bounds(above=timedelta(0), most=timedelta(days=36_500))
"""A flow that may take longer would be late on a day that no calendar has, or never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A process that no one steers: services react to each other's events.

    Attributes:
        identity: ``<service>/<name>``.
        starts: the types of events that start it.
        ends: the types of events of which any one ends it.
        within: how long it may take, from when its start was seen.
        react_within: for some types, how long a reaction to a message may take.
        expects: for some types, which types of events a reaction is; the others are read from the graph.
        rejections: the types of events that something must follow which leads to an end.
        events: all events that its declaration names, and the topics that they come by.
    """

    identity: str
    starts: tuple[str, ...]
    ends: tuple[str, ...]
    within: timedelta
    react_within: Mapping[str, timedelta]
    expects: Mapping[str, tuple[str, ...]]
    rejections: tuple[str, ...]
    events: tuple[Passage, ...]

    @property
    def shortest(self) -> timedelta:
        """The shortest of its times."""
        return min([self.within, *self.react_within.values()])


def flow_of(
    identity: str,
    *,
    starts: Classes,
    ends: Classes,
    within: timedelta,
    react_within: Mapping[type[object], timedelta],
    expects: Mapping[type[object], Classes],
    rejections: Classes,
) -> Flow:
    """Declare the flow ``<service>/<name>``; what the arguments mean is told with ``Flow``.

    Raises:
        ConfigurationError: a type is no event, a time is not above zero, or the flow would end as it starts.
    """
    name = check_name(identity.partition("/")[2], what="the name of a flow")
    owner = f"flow {name!r}"
    check_value(react_within, Mapping, name=f"{owner}: react_within=")
    check_value(expects, Mapping, name=f"{owner}: expects=")
    for time in (within, *react_within.values()):
        check_value(time, timedelta, name=f"{owner}: within= and react_within=", bounds=A_WHILE)
    events: dict[str, Passage] = {}

    def names(classes: Classes, role: str) -> tuple[str, ...]:
        check_value(classes, type | Sequence[type], name=f"{owner}: {role}")
        return tuple(_event(kind, f"{owner}: {role}", events) for kind in _listed(classes))

    flow = Flow(
        identity=identity,
        starts=names(starts, "starts="),
        ends=names(ends, "ends="),
        within=within,
        react_within={_event(kind, f"{owner}: react_within=", events): time for kind, time in react_within.items()},
        expects={
            _event(kind, f"{owner}: expects=", events): names(wanted, "expects=") for kind, wanted in expects.items()
        },
        rejections=names(rejections, "rejections="),
        events=tuple(sorted(events.values())),
    )
    _check(flow, owner)
    return flow


def _check(flow: Flow, owner: str) -> None:
    if not flow.starts or not flow.ends:
        raise ConfigurationError(f"{owner}: name an event that starts it, and one that ends it")
    if both := sorted({*flow.starts} & {*flow.ends}):
        raise ConfigurationError(f"{owner}: {', '.join(both)} would start it and end it; name two events")
    for kind, time in flow.react_within.items():
        if time > flow.within:
            raise ConfigurationError(
                f"{owner}: a reaction to {kind} may take {time}, and the whole flow {flow.within}; "
                "give it less, or leave it out"
            )
    if endless := sorted({*flow.ends} & {*flow.react_within, *flow.expects}):
        raise ConfigurationError(f"{owner}: {', '.join(endless)} ends it; nothing is expected of its reactions then")
    if empty := sorted(kind for kind, wanted in flow.expects.items() if not wanted):
        raise ConfigurationError(f"{owner}: expects= names no event as a reaction to {', '.join(empty)}")


def _listed(classes: Classes) -> Sequence[type[object]]:
    return (classes,) if isinstance(classes, type) else classes


def _event(kind: type[object], where: str, events: dict[str, Passage]) -> str:
    declared = message_type_of(kind)
    if declared.kind != "event":
        raise ConfigurationError(
            f"{where} {declared.name} is a command, which goes to one consumer and cannot be watched; "
            "name the event that its consumer publishes"
        )
    events[declared.name] = Passage(declared.name, declared.destination)
    return declared.name
