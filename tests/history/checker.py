"""Judges what happened in a fault test: from what was committed, delivered and applied, what went wrong.

Three records go in: the events whose transaction committed, every copy that the broker took, in its order, and every
effect that consumers committed, read back from their tables. Faults must have ended and everything be drained.
Source: the invariants I1 to I5 and I7 are those of the set algebra that Jepsen's queue checkers use.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

Place = Literal["head", "middle", "tail", "all"]


@dataclass(frozen=True, slots=True)
class Event:
    """An event, as it was committed or as a copy of it was seen: ``seq`` is its place among the events of ``key``."""

    id: str
    key: str | None
    seq: int


@dataclass(frozen=True, slots=True)
class Effect:
    """A committed effect of one event at one consumer; ``order`` tells which of a key's effects came first."""

    consumer: str
    id: str
    key: str | None
    order: int


@dataclass(frozen=True, slots=True)
class Lost:
    """A committed event that was never delivered, and where in its key it stood: the place hints at the cause."""

    event: Event
    place: Place


@dataclass(frozen=True, slots=True)
class Hole:
    """The first event of a key that is missing although a later one was delivered."""

    missing: Event
    followed_by: Event


@dataclass(frozen=True, slots=True)
class Inversion:
    """Two events of a key in the wrong order: ``late`` came at ``at``, its successor ``early`` before, at ``early_at``.

    Of all successors that came too early it is the nearest, so this is the shortest witness.
    """

    early: Event
    early_at: int
    late: Event
    at: int
    consumer: str | None = None

    @property
    def distance(self) -> int:
        """How far apart the two stand."""
        return self.at - self.early_at


@dataclass(frozen=True, slots=True)
class DoubleEffect:
    """One event that a consumer applied more than once."""

    consumer: str
    id: str
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the checker found; duplicates are allowed up to a bound, everything else is a fault."""

    lost: tuple[Lost, ...] = ()
    ghosts: tuple[Event, ...] = ()
    altered: tuple[Event, ...] = ()
    duplicates: int = 0
    inversions: tuple[Inversion, ...] = ()
    holes: tuple[Hole, ...] = ()
    double_effects: tuple[DoubleEffect, ...] = ()
    ghost_effects: tuple[Effect, ...] = ()
    missing_effects: tuple[tuple[str, str], ...] = ()
    dead_with_effect: tuple[tuple[str, str], ...] = ()
    effect_inversions: tuple[Inversion, ...] = ()

    def faults(self) -> Mapping[str, Sequence[object]]:
        """The kinds of fault that occurred, each with its instances, the shortest witness first."""
        kinds: dict[str, Sequence[object]] = {
            "lost": self.lost,
            "ghosts": self.ghosts,
            "altered": self.altered,
            "inversions": self.inversions,
            "holes": self.holes,
            "double_effects": self.double_effects,
            "ghost_effects": self.ghost_effects,
            "missing_effects": self.missing_effects,
            "dead_with_effect": self.dead_with_effect,
            "effect_inversions": self.effect_inversions,
        }
        return {kind: found for kind, found in kinds.items() if found}

    def assert_sound(self, *, max_duplicates: int | None = None) -> None:
        """Accept only a history without a fault and with at most ``max_duplicates`` repeated copies (None: any number).

        Raises:
            AssertionError: lists every kind of fault with its count and first instances.
        """
        complaints = [f"{kind}: {len(found)}, first {list(found[:3])}" for kind, found in self.faults().items()]
        if max_duplicates is not None and self.duplicates > max_duplicates:
            complaints.append(f"duplicates: {self.duplicates}, allowed {max_duplicates}")
        if complaints:
            raise AssertionError("\n".join(complaints))


def check(
    committed: Iterable[Event],
    log: Iterable[Event] | None = None,
    effects: Iterable[Effect] = (),
    *,
    consumers: Collection[str] = (),
    parked: Collection[str] = (),
    dead: Collection[tuple[str, str]] = (),
) -> Verdict:
    """Judge a drained history.

    Args:
        committed: the events that must be delivered; the numbers of one key need not be contiguous.
        log: every copy that the broker took, in its order; None when the test recorded no broker.
        effects: every effect that was committed, in any order.
        consumers: those that must have applied, or buried, every committed event.
        parked: ids that the relay put aside in sight of an operator: not lost, and no hole.
        dead: pairs of consumer and id that lie in the dead letters or were skipped on record.

    Raises:
        ValueError: two committed events share an id, or a number of one key: the test itself is wrong.
    """
    events = _by_id(committed)
    copies = None if log is None else tuple(log)
    applied = sorted(effects, key=lambda effect: effect.order)
    broker = Verdict() if copies is None else _judge_log(events, copies, frozenset(parked))
    times = Counter((effect.consumer, effect.id) for effect in applied)
    wanted = [(consumer, id_) for consumer in consumers for id_ in events if id_ not in parked]
    return Verdict(
        lost=broker.lost,
        ghosts=broker.ghosts,
        altered=broker.altered,
        duplicates=broker.duplicates,
        inversions=broker.inversions,
        holes=broker.holes,
        double_effects=tuple(DoubleEffect(*pair, count) for pair, count in times.items() if count > 1),
        ghost_effects=tuple(effect for effect in applied if effect.id not in events),
        missing_effects=tuple(pair for pair in wanted if pair not in times and pair not in dead),
        dead_with_effect=tuple(pair for pair in dead if pair in times),
        effect_inversions=_effect_inversions(events, applied),
    )


def _by_id(committed: Iterable[Event]) -> dict[str, Event]:
    events: dict[str, Event] = {}
    places: set[tuple[str, int]] = set()
    for event in committed:
        if event.id in events:
            raise ValueError(f"two committed events have the id {event.id!r}")
        if event.key is not None:
            if (event.key, event.seq) in places:
                raise ValueError(f"two committed events are number {event.seq} of key {event.key!r}")
            places.add((event.key, event.seq))
        events[event.id] = event
    return events


def _judge_log(events: Mapping[str, Event], copies: Sequence[Event], parked: frozenset[str]) -> Verdict:
    known = [(at, events[copy.id]) for at, copy in enumerate(copies) if copy.id in events]
    first: dict[str, int] = {}
    for at, event in known:
        first.setdefault(event.id, at)
    lost, holes = _judge_absence(events.values(), first.keys(), parked)
    return Verdict(
        lost=lost,
        ghosts=tuple(copy for copy in copies if copy.id not in events),
        altered=tuple(copy for copy in copies if events.get(copy.id, copy) != copy),
        duplicates=len(known) - len(first),
        inversions=_inversions([(at, events[id_]) for id_, at in first.items()]),
        holes=holes,
    )


def _judge_absence(
    events: Iterable[Event], delivered: Collection[str], parked: frozenset[str]
) -> tuple[tuple[Lost, ...], tuple[Hole, ...]]:
    """Find what was never delivered, and the first hole of each key."""
    lost: list[Lost] = []
    holes: list[Hole] = []
    for key, lane in _lanes(events).items():
        there = [place for place, event in enumerate(lane) if event.id in delivered]
        missing = [place for place, event in enumerate(lane) if event.id not in delivered and event.id not in parked]
        lost += [Lost(lane[place], _place(place, there)) for place in missing]
        after = [later for later in there if missing and later > missing[0]]
        if key is not None and after:
            holes.append(Hole(lane[missing[0]], followed_by=lane[after[0]]))
    return tuple(lost), tuple(holes)


def _place(place: int, there: Sequence[int]) -> Place:
    if not there:
        return "all"
    if place < there[0]:
        return "head"
    return "tail" if place > there[-1] else "middle"


def _lanes(events: Iterable[Event]) -> Mapping[str | None, list[Event]]:
    """The events of each key in the order of their numbers."""
    lanes: dict[str | None, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: event.seq):
        lanes[event.key].append(event)
    return lanes


def _effect_inversions(events: Mapping[str, Event], applied: Sequence[Effect]) -> tuple[Inversion, ...]:
    """Compare, consumer by consumer, the order of first effects with that of the keys' numbers."""
    first: dict[str, dict[str, int]] = defaultdict(dict)
    for effect in applied:
        if effect.id in events:
            first[effect.consumer].setdefault(effect.id, effect.order)
    found: list[Inversion] = []
    for consumer, orders in first.items():
        found += _inversions([(order, events[id_]) for id_, order in orders.items()], consumer)
    return tuple(sorted(found, key=lambda one: one.distance))


def _inversions(firsts: Iterable[tuple[int, Event]], consumer: str | None = None) -> tuple[Inversion, ...]:
    """One inversion for every event that came after a later one of its key, the closest pairs first.

    ``firsts`` must be in order. A key's stack holds falling numbers: those that may be the nearest before a late one.
    """
    stacks: dict[str, list[tuple[int, Event]]] = defaultdict(list)
    found: list[Inversion] = []
    for at, event in firsts:
        if event.key is None:
            continue
        stack = stacks[event.key]
        while stack and stack[-1][1].seq < event.seq:
            stack.pop()
        if stack:
            early_at, early = stack[-1]
            found.append(Inversion(early, early_at, event, at, consumer))
        stack.append((at, event))
    return tuple(sorted(found, key=lambda one: one.distance))
