"""When a flow is stuck, and what did not come: decisions on values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from itertools import islice

from pillarbox.flow.definition import Flow
from pillarbox.flow.graph import Graph
from pillarbox.flow.lineage import Lineage
from pillarbox.flow.participant import Passage
from pillarbox.flow.record import SeenMessage

END = "end"
MOST_MESSAGES = 1_000
"""Messages of a process beyond which only its end is waited for; who has not reacted to which is not looked for."""
MOST_MISSING = 20
"""How many things that are missing of a process are named."""
MOST_NAMED = 5
"""How many of several things of one kind a sentence names."""


class FlowState(StrEnum):
    """Where one process of a flow stands.

    ```mermaid
    stateDiagram-v2
        [*] --> waiting: something of it came before its start
        [*] --> running: its start
        waiting --> running: its start
        running --> stuck: something did not come in time
        stuck --> running: it came after all
        running --> ended
        stuck --> ended
        waiting --> ended
        [*] --> ended: its end came before its start
    ```
    """

    WAITING = "waiting"
    RUNNING = "running"
    STUCK = "stuck"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowInstance:
    """One process of a flow.

    Attributes:
        started_at: when its start was seen, by the database's clock.
        due_at: when it is to be looked at next; ``None``: nothing is waited for.
        stuck_at: since when something is missing.
        told: what was told of already; see ``Missing.key``.
        missing: what was missing when it was looked at last.
        version: it is changed by whoever knows it.
    """

    flow: str
    correlation_id: str
    state: FlowState = FlowState.WAITING
    started_at: datetime | None = None
    due_at: datetime | None = None
    ended_at: datetime | None = None
    ended_by: str | None = None
    stuck_at: datetime | None = None
    told: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Something that did not come.

    Attributes:
        key: tells it from other things of the same process.
        after: the type of the message that it was to follow; ``None`` for the end of the flow.
        message_id: that message.
        consumer: who was to react; ``None`` where nobody is known to, or several might.
        types: the events of which one was to come; none: any.
        by_way_of: the consumers of the commands in between.
        because: what is known of the reason.
    """

    key: str
    after: str | None
    message_id: str | None
    consumer: str | None
    types: tuple[str, ...]
    by_way_of: tuple[str, ...] = ()
    because: str = ""

    @property
    def culprit(self) -> str:
        """Who is to be looked at first: of those in between the last one, until more is known; empty for the end."""
        return self.by_way_of[-1] if self.by_way_of else self.consumer or self.after or ""

    def __str__(self) -> str:
        """Say it in a sentence."""
        wanted = _one_of(self.types)
        reason = f": {self.because}" if self.because else ""
        if self.after is None:
            return f"{wanted} has not come{reason}"
        after = f"{self.after} ({self.message_id})"
        if self.consumer is None:
            nothing = "nothing has followed" if not self.types else f"{wanted} has not followed"
            return f"{nothing} {after}{reason}"
        by = f", by way of {' and '.join(self.by_way_of)}," if self.by_way_of else ""
        what = f" with {wanted}" if self.types else ""
        return f"{self.consumer}{by} has not reacted to {after}{what}{reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A reaction that is expected.

    Attributes:
        types: the events of which one is to come; none: any.
        is_certain: it is said, or follows from the graph; else it is only possible.
    """

    trigger: SeenMessage
    consumer: str | None
    types: frozenset[str]
    is_certain: bool
    by_way_of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How one process of a flow stands, and when that may change though nothing comes."""

    missing: tuple[Missing, ...]
    next_at: datetime | None


def is_of_interest(message: SeenMessage, flow: Flow) -> bool:
    """Tell whether ``message`` begins or moves a process of ``flow``, so that there must be a record of it."""
    return message.type in flow.starts or message.type in flow.ends or message.type in flow.react_within


def moved(instance: FlowInstance, message: SeenMessage, flow: Flow, now: datetime) -> FlowInstance:
    """Return what ``message`` makes of ``instance``, in whatever order the messages come."""
    starts = message.type in flow.starts and instance.started_at is None
    if instance.state is FlowState.ENDED:
        return replace(instance, started_at=now) if starts else instance
    if message.type in flow.ends:
        return ended(instance, by=message.type, now=now)
    due_at = instance.due_at
    if starts:
        due_at = _earlier(due_at, now + flow.within)
        instance = replace(instance, started_at=now, state=FlowState.RUNNING)
    if message.type in flow.react_within:
        due_at = _earlier(due_at, now + flow.react_within[message.type])
    if instance.state is FlowState.STUCK:  # it may be what did not come
        due_at = now
    return replace(instance, due_at=due_at)


def ended(instance: FlowInstance, *, by: str, now: datetime) -> FlowInstance:
    """Return ``instance`` as ended: nothing is waited for any longer."""
    return replace(
        instance, state=FlowState.ENDED, ended_at=now, ended_by=by, due_at=None, stuck_at=None, missing=(), told=()
    )


def judge(
    instance: FlowInstance, messages: Sequence[SeenMessage], flow: Flow, graph: Graph, now: datetime
) -> Judgement:
    """Decide what of ``instance`` has not come in time.

    Before the whole flow is overdue only reactions with a time of their own are looked at; then every one that is
    expected and did not come, so that it is seen why the end did not come either.
    """
    if instance.started_at is None or instance.state is FlowState.ENDED:
        return Judgement(missing=(), next_at=None)
    lineage = Lineage(messages, graph)
    unmet = list(_unmet(messages, flow, graph, lineage))
    ends_at = instance.started_at + flow.within
    if ends_at <= now:
        return Judgement(
            missing=tuple(islice(_at_the_end(unmet, messages, flow, graph, lineage), MOST_MISSING)), next_at=None
        )
    missing: list[Missing] = []
    next_at = ends_at
    for demand in unmet:
        within = flow.react_within.get(demand.trigger.type)
        if within is None or not demand.is_certain or demand.trigger.seen_at is None:
            continue
        due_at = demand.trigger.seen_at + within
        if due_at <= now:
            missing.append(_missing(demand))
        else:
            next_at = min(next_at, due_at)
    return Judgement(missing=tuple(missing[:MOST_MISSING]), next_at=next_at)


def looked_at(instance: FlowInstance, judgement: Judgement, now: datetime) -> tuple[FlowInstance, tuple[Missing, ...]]:
    """Return ``instance`` as it is to be written, and what is to be told of.

    Each thing is told of once, and none after the missing end was: who is late then is seen, and need not be told of
    again with every message that comes after all.
    """
    is_over = END in instance.told
    new = () if is_over else tuple(one for one in judgement.missing if one.key not in instance.told)
    is_stuck = bool(judgement.missing)
    changed = replace(
        instance,
        state=FlowState.STUCK if is_stuck else FlowState.RUNNING,
        stuck_at=(instance.stuck_at or now) if is_stuck else None,
        due_at=judgement.next_at,
        told=(*instance.told, *(one.key for one in new)),
        missing=tuple(str(one) for one in judgement.missing),
    )
    return changed, new


def demands_of(message: SeenMessage, flow: Flow, graph: Graph) -> list[Demand]:
    """Return the reactions to ``message`` that are expected, or possible."""
    said = frozenset(flow.expects.get(message.type, ()))
    possible: list[Demand] = []
    for hearer in graph.hearers(message.passage):
        types, is_certain, by_way_of = graph.expected_of(hearer, message.passage)
        if types or hearer.is_open:
            possible.append(
                Demand(
                    trigger=message,
                    consumer=hearer.consumer,
                    types=types,
                    is_certain=is_certain,
                    by_way_of=by_way_of,
                )
            )
    if said:
        fitting = [one for one in possible if one.types & said]
        return [_in_one(message, said, fitting)]
    if message.type in flow.react_within and not any(one.is_certain for one in possible):
        return [_in_one(message, frozenset(kind for one in possible for kind in one.types), possible)]
    return possible


def _in_one(message: SeenMessage, types: frozenset[str], possible: Sequence[Demand]) -> Demand:
    """Return a demand of one of ``types``, whoever meets it."""
    one = possible[0] if len(possible) == 1 else None
    return Demand(
        trigger=message,
        consumer=None if one is None else one.consumer,
        types=types,
        is_certain=True,
        by_way_of=() if one is None else one.by_way_of,
    )


def _unmet(messages: Sequence[SeenMessage], flow: Flow, graph: Graph, lineage: Lineage) -> Iterator[Demand]:
    """Return the demands that no message meets.

    A message that certainly follows from another one meets its demand. One whose descent is not known meets one demand
    of a consumer at most.
    """
    if len(messages) > MOST_MESSAGES:
        return
    spent = set[tuple[str | None, str]]()
    for trigger in sorted(messages, key=lambda one: (one.hop, one.message_id)):
        if trigger.type in flow.ends:
            continue
        answers = lineage.answers_to(trigger)
        for demand in demands_of(trigger, flow, graph):
            if demand.types & answers or (answers and not demand.types):
                continue
            free = (
                (demand.consumer, one.message_id)
                for one in lineage.adrift
                if (demand.consumer, one.message_id) not in spent
                and (not demand.types or one.type in demand.types)
                and lineage.may_follow(one, trigger)
            )
            if (found := next(free, None)) is not None:
                spent.add(found)
            else:
                yield demand


def _at_the_end(
    unmet: Sequence[Demand], messages: Sequence[SeenMessage], flow: Flow, graph: Graph, lineage: Lineage
) -> Iterator[Missing]:
    yield Missing(key=END, after=None, message_id=None, consumer=None, types=flow.ends)
    certain = [demand for demand in unmet if demand.is_certain]
    leading = graph.before(passage for kind in flow.ends for passage in graph.channels_of(kind))
    named = certain or [demand for demand in unmet if any(passage.type in demand.types for passage in leading)]
    yield from (_missing(demand) for demand in named)
    if not named:
        unheard = [one for one in messages if _is_unheard(one, flow, graph, lineage)]
        lost = sorted(_unpublished(leading, flow, graph))
        for one in unheard:
            because = "nobody known hears it" + (f", and {_one_of(lost)} was to come" if lost else "")
            yield Missing(
                key=f"{one.message_id}>", after=one.type, message_id=one.message_id, consumer=None, types=(),
                because=because,
            )  # fmt: skip


def _is_unheard(message: SeenMessage, flow: Flow, graph: Graph, lineage: Lineage) -> bool:
    if message.type in flow.ends or lineage.children(message):
        return False
    return next(graph.hearers(message.passage), None) is None


def _unpublished(leading: Iterable[Passage], flow: Flow, graph: Graph) -> set[str]:
    """Return the types that lead to an end, and that nobody known publishes."""
    return {
        passage.type
        for passage in leading
        if passage.type not in (*flow.starts, *flow.ends) and next(graph.publishers(passage), None) is None
    }


def _missing(demand: Demand) -> Missing:
    trigger = demand.trigger
    return Missing(
        key=f"{trigger.message_id}>{demand.consumer or ''}",
        after=trigger.type,
        message_id=trigger.message_id,
        consumer=demand.consumer,
        types=tuple(sorted(demand.types)),
        by_way_of=demand.by_way_of,
    )


def _earlier(one: datetime | None, other: datetime) -> datetime:
    return other if one is None else min(one, other)


def _one_of(types: Sequence[str]) -> str:
    named = list(types[:MOST_NAMED])
    if len(types) > MOST_NAMED:
        named.append(f"another of {len(types)}")
    return " or ".join([", ".join(named[:-1]), named[-1]]) if len(named) > 1 else "".join(named)
