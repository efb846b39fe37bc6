"""What a program or an operator asks of flows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pillarbox.audit import Act, ActStore, checked
from pillarbox.errors import NotFoundError
from pillarbox.errors.values import check_limit
from pillarbox.flow.checks import FlowProblem, check
from pillarbox.flow.definition import Flow
from pillarbox.flow.graph import Graph
from pillarbox.flow.policy import FlowState, ended, judge
from pillarbox.flow.reasons import Reasons, takers_of_commands
from pillarbox.flow.record import LONGEST, fitting
from pillarbox.flow.store import FlowPorts, StuckFlow
from pillarbox.flow.trace import Trace, trace_of
from pillarbox.transaction import Program, TransactionSource

AT_MOST = 1000


class Flows:
    """The flows of one database: their graph, the trace of a process, and what is stuck."""

    def __init__(
        self,
        ports: FlowPorts,
        *,
        acts: ActStore,
        source: TransactionSource,
        declared: Sequence[Flow] = (),
        own: Callable[[], Graph] = Graph,
        included: list[Graph] | None = None,
    ) -> None:
        """Ask through these ports.

        Args:
            ports: what flows stand on.
            acts: where it is recorded what operators do.
            source: where transactions begin.
            declared: the flows of the program; the list may grow.
            own: returns the graph of the program's own consumers.
            included: the graphs of services in other databases; the list may grow.
        """
        self.ports = ports
        self._acts = acts
        self.source = source
        self._declared = declared
        self._own = own
        self._included = [] if included is None else included
        self.reasons = Reasons(ports.journal, source)

    @property
    def declared(self) -> tuple[Flow, ...]:
        """The flows that the program has declared."""
        return tuple(self._declared)

    def include(self, graph: Graph | Mapping[str, Any], /) -> None:
        """Say what consumers of another service hear and publish, which does not share this one's database.

        Args:
            graph: its box's ``flows.graph()``, or what ``pillarbox flow graph --json`` has printed of it.

        Raises:
            ConfigurationError: it is something else.
        """
        self._included.append(graph if isinstance(graph, Graph) else Graph.from_dict(graph))

    def graph(self) -> Graph:
        """Return who hears what and publishes what, of this program and of what was included; asks no database.

        Raises:
            InvalidSetupError: lists everything that is wrong with the declarations.
        """
        return self._own().merged(*self._included)

    async def known(self) -> Graph:
        """Return the graph with all services that share the database."""
        stored = Graph(participants=tuple(await self.source.run(self.ports.participants.known())))
        return self.graph().merged(stored)

    def check(self) -> tuple[FlowProblem, ...]:
        """Return what can be told to be wrong before anything runs, worst first.

        Raises:
            InvalidSetupError: lists everything that is wrong with the declarations.
        """
        return check(self._declared, self.graph())

    async def trace(self, correlation_id: str, /) -> Trace:
        """Return the tree of one process: who caused whom, which consumer made what of it.

        It has the events of declared flows, whatever service published them, and of commands those that events tell
        of, or that wait or are dead in this database. What consumers of other databases made of a message is seen
        from what they published.

        Args:
            correlation_id: what all messages of the process share: the id of its first message.
        """
        process = fitting(correlation_id)
        graph = await self.known()
        messages = list(await self.source.run(self.ports.journal.messages([process])))
        aside = await self.reasons.put_aside(process, takers_of_commands(graph))
        met = {one.message_id for one in messages}
        messages += [message for message, _ in aside if message.message_id not in met]
        ids = {one.message_id for one in messages} | {one.causation_id for one in messages if one.causation_id}
        handlings = list(await self.source.run(self.ports.journal.handlings(ids)))
        return trace_of(process, messages, handlings, graph)

    async def stuck(self, *, limit: int = AT_MOST) -> tuple[StuckFlow, ...]:
        """Return the processes of which something did not come in time, started first first.

        Those of flows that this program declares are judged now; of others it is told what was found last.
        """
        check_limit(limit)
        found = await self.source.run(self.ports.instances.overdue(None, limit=limit))
        flows = {flow.identity: flow for flow in self._declared}
        graph = await self.known() if found.instances else Graph()
        stuck: list[StuckFlow] = []
        for one in found.instances:
            missing = one.missing
            known = one.flow in flows
            messages = await self.source.run(self.ports.journal.messages([one.correlation_id])) if known else ()
            if messages:  # else they were removed since; what was found then still stands in the row
                judgement = judge(one, messages, flows[one.flow], graph, found.now)
                explained = await self.reasons.explain(judgement.missing, messages)
                missing = tuple(str(each) for each in explained)
                if not missing:
                    continue
            assert one.started_at is not None, "what is overdue has started"
            stuck.append(
                StuckFlow(
                    flow=one.flow,
                    correlation_id=one.correlation_id,
                    started_at=one.started_at,
                    stuck_for=None if one.stuck_at is None else found.now - one.stuck_at,
                    missing=missing,
                )
            )
        return tuple(stuck)

    async def close(self, flow: str, correlation_id: str, /, *, reason: str, by: str) -> None:
        """Let a process end although its end did not come; somebody has seen to it.

        Args:
            flow: ``<service>/<name>``.
            correlation_id: which process of it.
            reason: why; kept with the act.
            by: who decides.

        Raises:
            ValueError: ``reason`` or ``by`` is blank.
            NotFoundError: no such process is open.
        """
        checked(by=by, reason=reason)
        if not await self.source.run(self._close(flow, [fitting(correlation_id)], by=by, reason=reason)):
            raise NotFoundError(kind="open flow", identifier=f"{flow} {correlation_id}")

    async def close_all(self, flow: str, /, *, reason: str, by: str) -> int:
        """Let every process of ``flow`` end that is stuck, or due and not looked at; return how many there were.

        For a flow that no program declares any longer, or an outage that somebody has seen to.

        Raises:
            ValueError: ``reason`` or ``by`` is blank.
        """
        checked(by=by, reason=reason)
        closed = 0
        while True:
            found = await self.source.run(self.ports.instances.overdue([flow], limit=AT_MOST))
            which = [one.correlation_id for one in found.instances]
            count = await self.source.run(self._close(flow, which, by=by, reason=reason)) if which else 0
            closed += count
            if not count:
                return closed

    def _close(self, flow: str, processes: Sequence[str], *, by: str, reason: str) -> Program[int]:
        standing = yield from self.ports.instances.lock((), [(flow, one) for one in processes])
        open_ = [one for one in standing.instances if one.state is not FlowState.ENDED]
        yield from self.ports.instances.save(
            [ended(one, by=f"closed by {by}"[:LONGEST], now=standing.now) for one in open_]
        )
        for one in open_:
            subject = f"{flow} {one.correlation_id}"
            yield from self._acts.record(Act(by=by, what="close", kind="flow", subject=subject, reason=reason))
        return len(open_)
