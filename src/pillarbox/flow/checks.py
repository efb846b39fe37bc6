"""What can be told of a flow before anything runs: from the graph alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pillarbox.flow.definition import Flow
from pillarbox.flow.graph import Graph
from pillarbox.flow.participant import Participant, Passage


class ProblemSeverity(StrEnum):
    """``error``: it cannot work; ``warning``: it does not, unless a service does what the graph does not know."""

    ERROR = "error"
    WARNING = "warning"
    HINT = "hint"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowProblem:
    """Something about a flow that somebody should look at.

    Attributes:
        code: what kind of problem it is: ``no-way-to-end``, ``endless-cycle``, ``unheard-event``,
            ``unpublished-event``, ``rejection-without-reaction``, ``open-consumer``.
        subject: the event or consumer that it is about.
        what: the same in a sentence, with what to do.
    """

    flow: str
    code: str
    severity: ProblemSeverity
    subject: str
    what: str


def check(flows: Iterable[Flow], graph: Graph) -> tuple[FlowProblem, ...]:
    """Return what is wrong with ``flows``, worst first."""
    told = list(flows)
    every_end = frozenset(kind for flow in told for kind in flow.ends)
    problems = [problem for flow in told for problem in _Check(flow, graph, every_end).problems()]
    return tuple(sorted(problems, key=lambda one: list(ProblemSeverity).index(one.severity)))


class _Check:
    """Looks at one flow."""

    def __init__(self, flow: Flow, graph: Graph, every_end: frozenset[str]) -> None:
        self._flow = flow
        self._graph = graph
        self._every_end = every_end
        self._ends = self._all(flow.ends)
        self._reached = graph.after(self._all(flow.starts))
        self._leading = graph.before(self._ends)
        self._met = [one for one in graph.participants if not self._reached.isdisjoint(one.hears)]
        self._is_closed = not any(one.is_open for one in self._met)

    def problems(self) -> Iterator[FlowProblem]:
        yield from self._no_way()
        yield from self._cycles()
        yield from self._unheard()
        yield from self._unpublished()
        yield from self._rejections()
        for one in self._met:
            if one.is_open:
                what = f"{one.consumer} does not say what it publishes; annotate what it returns, or give publishes="
                yield self._problem("open-consumer", ProblemSeverity.HINT, one.consumer, what)

    def _all(self, kinds: Sequence[str]) -> set[Passage]:
        """Return the events of the types ``kinds``, as the flow and as the graph know them."""
        declared = {passage for passage in self._flow.events if passage.type in kinds}
        return declared | {passage for kind in kinds for passage in self._graph.channels_of(kind)}

    def _no_way(self) -> Iterator[FlowProblem]:
        if not self._reached.isdisjoint(self._ends):
            return
        starts, ends = " or ".join(self._flow.starts), " or ".join(self._flow.ends)
        what = f"no way leads from {starts} to {ends}; include the graph of the services that know one"
        yield self._problem("no-way-to-end", ProblemSeverity.WARNING, starts, what)

    def _cycles(self) -> Iterator[FlowProblem]:
        for cycle in self._endless():
            on_it = [one for one in self._graph.participants if not cycle.isdisjoint(one.hears)]
            goes_on = [one for one in on_it if self._must_stay(one, cycle)]
            names = ", ".join(sorted({passage.type for passage in cycle}))
            what = f"{names} cause each other, and nothing leads from there to an end; let one of them lead to one"
            is_certain = self._is_closed and len(goes_on) == len(on_it)
            severity = ProblemSeverity.ERROR if is_certain else ProblemSeverity.WARNING
            yield self._problem("endless-cycle", severity, names, what)

    def _must_stay(self, one: Participant, cycle: frozenset[Passage]) -> bool:
        """Tell whether ``one`` always goes on with something on the cycle."""
        answers = [answer for heard in one.hears if heard in cycle for answer in one.answers_to(heard)]
        return bool(answers) and not one.is_open and not one.may_be_silent and cycle.issuperset(answers)

    def _endless(self) -> list[frozenset[Passage]]:
        """Return the sets of passages that lead to each other and to no end."""
        stuck = {passage for passage in self._reached if passage not in self._leading}
        after = {passage: self._graph.after(self._next(passage)) for passage in stuck}
        cycles = {
            frozenset(other for other in after[passage] if passage in after.get(other, frozenset()))
            for passage in stuck
            if passage in after[passage]
        }
        return sorted(cycles, key=sorted)

    def _next(self, passage: Passage) -> list[Passage]:
        return [answer for one in self._graph.hearers(passage) for answer in one.answers_to(passage)]

    def _unheard(self) -> Iterator[FlowProblem]:
        for passage in sorted(self._reached):
            is_over = passage.type in self._every_end or passage.type in self._flow.rejections
            if is_over or next(self._graph.hearers(passage), None) is not None:
                continue
            by = ", ".join(one.consumer for one in self._graph.publishers(passage)) or "nobody known"
            what = f"{passage.type}, published by {by}, is heard by nobody; handle it, or let a flow end with it"
            yield self._problem("unheard-event", ProblemSeverity.WARNING, passage.type, what)

    def _unpublished(self) -> Iterator[FlowProblem]:
        for passage in sorted(self._leading - self._ends):
            if passage.type in self._flow.starts or next(self._graph.publishers(passage), None) is not None:
                continue
            by = ", ".join(one.consumer for one in self._graph.hearers(passage))
            what = f"{passage.type}, which {by} waits for, is published by nobody known"
            yield self._problem("unpublished-event", ProblemSeverity.WARNING, passage.type, what)

    def _rejections(self) -> Iterator[FlowProblem]:
        for kind in self._flow.rejections:
            if kind in self._flow.ends or any(passage in self._leading for passage in self._all([kind])):
                continue
            what = f"{kind} is a rejection, and no reaction to it leads to an end: what was done before it stays done"
            yield self._problem("rejection-without-reaction", ProblemSeverity.WARNING, kind, what)

    def _problem(self, code: str, severity: ProblemSeverity, subject: str, what: str) -> FlowProblem:
        return FlowProblem(flow=self._flow.identity, code=code, severity=severity, subject=subject, what=what)
