"""How a box declares flows, and what it does for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from types import MappingProxyType

from pillarbox.app.assembly import Parts
from pillarbox.app.controlling import flows_of
from pillarbox.app.orchestrating import Included
from pillarbox.app.settings import Settings
from pillarbox.clock import Clock
from pillarbox.consumer import Consumer
from pillarbox.errors import ConfigurationError, InvalidSetupError
from pillarbox.errors.values import check_value
from pillarbox.flow import Flow, Flows, Graph, flow_of
from pillarbox.flow.checks import ProblemSeverity, check
from pillarbox.flow.definition import Classes
from pillarbox.flow.reading import graph_of
from pillarbox.flow.record import TRACKER
from pillarbox.flow.tracker import tracker_of
from pillarbox.flow.watch import FlowWatch
from pillarbox.message import Registry
from pillarbox.observe import FlowDoubtful, Observer
from pillarbox.relational import RelationalStore
from pillarbox.rounds import Loop, Rounds

RETIRE_EVERY = timedelta(minutes=1)
NO_TIMES: Mapping[type[object], timedelta] = MappingProxyType({})
NO_REACTIONS: Mapping[type[object], Classes] = MappingProxyType({})


class Flowing(ABC):
    """The part of a box that watches flows."""

    name: str
    settings: Settings
    registry: Registry
    store: RelationalStore
    _sagas: Included

    @cached_property
    def _declared_flows(self) -> list[Flow]:
        return []

    @cached_property
    def _included_graphs(self) -> list[Graph]:
        return []

    @cached_property
    def flows(self) -> Flows:
        """The flows of the box: their graph, the trace of a process, and what is stuck."""
        return flows_of(self.store, self._declared_flows, self._own_graph, self._included_graphs)

    def flow(
        self,
        name: str,
        /,
        *,
        starts: Classes,
        ends: Classes,
        within: timedelta,
        react_within: Mapping[type[object], timedelta] = NO_TIMES,
        expects: Mapping[type[object], Classes] = NO_REACTIONS,
        rejections: Classes = (),
    ) -> Flow:
        """Declare a flow: a process in which services react to each other's events, and that must come to its end.

        While the box runs, it watches the flow's events and alerts of each process that is late, once, naming what did
        not come.

        Args:
            name: its durable name within the service.
            starts: the event that starts it, or several.
            ends: the event that ends it, or several of which any one does.
            within: how long it may take, from when its start was seen.
            react_within: for some of its events, how long the reaction to one may take.
            expects: for some of its events, of which events one is to follow; what is left out is read from the graph.
            rejections: events that something must follow which leads to an end.

        Raises:
            ConfigurationError: a type is no event, a time is not as it should be, the name is taken, or the box is
                running.
        """
        self._check_can_be_heard()
        check_value(name, str, name="the name of a flow")
        declared = flow_of(
            f"{self.name}/{name}",
            starts=starts,
            ends=ends,
            within=within,
            react_within=react_within,
            expects=expects,
            rejections=rejections,
        )
        if any(one.identity == declared.identity for one in self._declared_flows):
            raise ConfigurationError(f"there are two flows {name!r}; give one another name")
        if self.settings.keep_flows < 2 * within:
            raise ConfigurationError(
                f"flow {name!r} may take {within}, and what is seen of it is kept for {self.settings.keep_flows}; "
                "keep it for twice that at least: Settings(keep_flows=…)"
            )
        self._declared_flows.append(declared)
        return declared

    @abstractmethod
    def _check_can_be_heard(self) -> None: ...

    @abstractmethod
    def consumers(self) -> tuple[Consumer, ...]:
        """Return the box's consumers, checked."""

    def _own_graph(self) -> Graph:
        return self._graph_of(self.consumers())

    def _graph_of(self, consumers: Sequence[Consumer]) -> Graph:
        homes = {declared.name: declared.destination for declared in self.registry.types()}
        others = [one for one in consumers if one.options.name != TRACKER]
        graph = graph_of(others, homes, self._declared_flows)
        starters = {
            f"{self.name}/{one.options.name}" for part in self._sagas.starters.values() for one in part.declarations
        }
        participants = [  # what a saga sends and publishes, its steps decide
            replace(one, is_open=True, may_be_silent=False) if one.consumer in starters else one
            for one in graph.participants
        ]
        return replace(graph, participants=tuple(participants))

    def _with_tracker(self, consumers: tuple[Consumer, ...]) -> tuple[Consumer, ...]:
        """Return ``consumers`` and the one that watches the flows, if there are any."""
        if taken := [one for one in consumers if one.options.name == TRACKER]:
            raise ConfigurationError(f"{taken[0].identity}: that name is taken by what watches flows; choose another")
        if not self._declared_flows:
            return consumers
        graph = self._graph_of(consumers).merged(*self._included_graphs)
        return (*consumers, tracker_of(self.name, self._declared_flows, graph, self.store.flows))

    async def _tracked(self, consumers: tuple[Consumer, ...]) -> tuple[Consumer, ...]:
        """Return ``consumers``, of which what watches flows hears the services that share the database, too."""
        if not self._declared_flows:
            return consumers
        others = [one for one in consumers if one.options.name != TRACKER]
        return (*others, tracker_of(self.name, self._declared_flows, await self.flows.known(), self.store.flows))

    async def _retire_tracker(self) -> None:
        """Forget what watched the flows, if no program declares any longer: nobody would read what waits.

        A program that did so a few minutes ago may be about to start anew.
        """
        tracker, known = f"{self.name}/{TRACKER}", self.store.consumers
        if not self._declared_flows and not await self.store.run(known.types_of(tracker)):
            await self.store.run(known.retire(tracker))

    async def _flow_workers(self, parts: Parts) -> list[Loop]:
        """Make what watches the box's flows.

        Raises:
            InvalidSetupError: a flow cannot work.
        """
        if not self._declared_flows:
            return [_TrackerRetirement(self._retire_tracker, clock=parts.clock, observer=parts.observers)]
        problems = check(self._declared_flows, await self.flows.known())
        wrong = [one for one in problems if one.severity is ProblemSeverity.ERROR]
        if wrong:
            raise InvalidSetupError(problems=[ConfigurationError(f"{one.flow}: {one.what}") for one in wrong])
        for one in problems:
            if one.severity is ProblemSeverity.WARNING:
                parts.observers.notice(FlowDoubtful(flow=one.flow, code=one.code, subject=one.subject, what=one.what))
        keep = self.settings.keep_flows
        return [FlowWatch(self.flows, clock=parts.clock, observer=parts.observers, keep=keep)]


class _TrackerRetirement(Rounds):
    """Sees to it that what watched the flows of a release before is forgotten some time after its last process."""

    def __init__(self, retire: Callable[[], Awaitable[None]], *, clock: Clock, observer: Observer) -> None:
        super().__init__(
            "retirement of the flow tracker",
            every=RETIRE_EVERY,
            first_after=RETIRE_EVERY,
            clock=clock,
            observer=observer,
        )
        self._retire = retire

    async def round(self) -> None:
        await self._retire()
