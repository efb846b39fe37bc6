"""Which message must wait for which: the order of causes. Pure decisions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeAlias, TypeVar

from pillarbox.ordering.strategies import Causal

T = TypeVar("T", bound=Hashable)

FIRST_LOOK = timedelta(milliseconds=250)
"""After so long a message that waits is looked at again: its cause may have been handled just then."""
LATEST_LOOK = timedelta(seconds=30)

Trouble: TypeAlias = Literal["missing", "dead", "cycle"]
"""Why waiting for a cause is of no more use: it did not come in time, is a dead letter, or waits itself."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The message waits; it is looked at again ``after`` so long. With ``trouble`` somebody must be told."""

    after: timedelta
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Pass:
    """The message runs. With ``trouble`` it does so without its cause."""

    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class GoToTheDead:
    """The message is a dead letter."""

    trouble: Trouble


Decision: TypeAlias = Wait | Pass | GoToTheDead


def decide(ordering: Causal, *, waited: timedelta, is_dead: bool, in_circle: bool) -> Decision:
    """Decide about a message that lacks a cause.

    Args:
        ordering: what the consumer asks for.
        waited: for how long it has waited.
        is_dead: a cause is a dead letter that nobody replays.
        in_circle: a cause waits for the message itself.
    """
    trouble: Trouble | None = "cycle" if in_circle else "dead" if is_dead else None
    if trouble is None and waited >= ordering.wait:
        trouble = "missing"
    after = min(max(waited, FIRST_LOOK), LATEST_LOOK)
    if trouble is None:
        return Wait(after=min(after, ordering.wait - waited))
    match ordering.when_missing:
        case "hold":
            return Wait(after=after, trouble=trouble)
        case "run":
            return Pass(trouble=trouble)
        case "dead":
            return GoToTheDead(trouble=trouble)


def arranged(items: Sequence[T], needs: Mapping[T, Collection[T]]) -> list[T]:
    """Return ``items`` in their order, but for those that another one ``needs``: they come right before it.

    In a cycle whoever comes first stays behind the others.
    """
    order: dict[T, None] = {}
    entered = set[T]()
    for item in items:
        path: list[tuple[T, Iterator[T]]] = []
        if item not in entered:
            entered.add(item)
            path.append((item, iter(needs.get(item, ()))))
        while path:
            current, rest = path[-1]
            needed = next((one for one in rest if one not in entered), None)
            if needed is None:
                order[current] = None
                path.pop()
            else:
                entered.add(needed)
                path.append((needed, iter(needs.get(needed, ()))))
    return list(order)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a message is that another one waits for.

    Attributes:
        hold_key: the hold that it is in; ``None`` if it is in none.
        at: its place in the hold; what has a lower one is before it.
        is_dead: it is a dead letter that nobody replays.
        needs: what it waits for, and what those wait for that are before it in its hold.
    """

    hold_key: str | None = None
    at: tuple[int, int] = (0, 0)
    is_dead: bool = False
    needs: frozenset[str] = frozenset()


NOWHERE = Place()


def is_circular(message_id: str, missing: Iterable[str], places: Mapping[str, Place]) -> bool:
    """Tell whether a message waits for itself: by causes alone, or because one of them is behind it in its hold.

    Args:
        message_id: the message.
        missing: the causes that it lacks.
        places: where it is, where these are, and theirs, and so on.
    """
    through = _reached(missing, lambda one: places.get(one, NOWHERE).needs)
    if message_id in through:
        return True
    own = places.get(message_id, NOWHERE)
    reached = (places.get(one, NOWHERE) for one in through)
    return own.hold_key is not None and any(one.hold_key == own.hold_key and one.at > own.at for one in reached)


def _reached(start: Iterable[str], following: Callable[[str], Iterable[str]]) -> set[str]:
    reached = set(start)
    rest = list(reached)
    while rest:
        new = set(following(rest.pop())) - reached
        reached |= new
        rest += new
    return reached
