"""What a benchmark is: competitors at the same work, and what we hold ourselves to."""

from __future__ import annotations

from dataclasses import dataclass

OURS = "pillarbox"

Options = tuple[tuple[str, str | int | bool], ...]


@dataclass(frozen=True, kw_only=True)
class Competitor:
    """Somebody who does the work.

    Attributes:
        who: the name in tables and results, with the version of a peer.
        module: the module of ``benchmarks.competitors`` that does it, run as a process of its own.
        peer: the requirements file in ``benchmarks/peers``, installed into an environment of its own; ``None`` for
            programs that run in ours.
        options: what the module is told besides where its database is.
        part: of the work, for those whom all of it would take many minutes; a rate is a rate.
    """

    who: str
    module: str
    peer: str | None = None
    options: Options = ()
    part: float = 1.0

    def share_of(self, count: int) -> int:
        """Return how many of ``count`` pieces of work a run of it does."""
        return max(1, round(count * self.part))


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One of the figures that a run of a competitor ends with.

    Attributes:
        name: as the run reports it.
        unit: in tables and results.
        digits: after the point.
        less_is_better: true for a latency.
    """

    name: str
    unit: str
    digits: int = 0
    less_is_better: bool = False


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a median of ours should reach.

    Attributes:
        who: which of ours.
        figure: what is looked at, by the name that a run reports it under.
        against: competitors; the best of those that ran counts. Empty for a bound of the figure itself.
        at_least: how many times the figure of ``against`` ours should be.
        at_most: how many times the figure of ``against``, or how much, ours may be.
    """

    who: str = OURS
    figure: str = "rate"
    against: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A piece of work, who does it, and how often.

    Attributes:
        name: as in ``make bench BENCH=name``.
        database: the database that the work is done on; its name's last part unless given.
        count: how many pieces of work one run does.
        figures: what is compared, the first of them above all; the others are of those who measure them.
    """

    name: str
    title: str
    count: int
    figures: tuple[Figure, ...]
    competitors: tuple[Competitor, ...]
    goals: tuple[Goal, ...] = ()
    database: str = ""

    @property
    def store(self) -> str:
        """The database that the work is done on."""
        return self.database or self.name.rpartition(".")[2]


def rate(unit: str) -> tuple[Figure, ...]:
    """Return the one figure of a benchmark that is about speed."""
    return (Figure(name="rate", unit=unit),)


LATENCY = (
    Figure(name="p50_ms", unit="ms p50", digits=2, less_is_better=True),
    Figure(name="p99_ms", unit="ms p99", digits=2, less_is_better=True),
)
