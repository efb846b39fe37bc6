"""What a benchmark is: competitors at the same work, and what we hold ourselves to."""

from __future__ import annotations

from dataclasses import dataclass

OURS = "pillarbox"


@dataclass(frozen=True, kw_only=True)
class Competitor:
    """Somebody who does the work.

    Attributes:
        who: the name in tables and results, with the version of a peer.
        module: the module of ``benchmarks.competitors`` that does it, run as a process of its own.
        peer: the requirements file in ``benchmarks/peers``, installed into an environment of its own; ``None`` for
            programs that run in ours.
        options: what the module is told besides where its database is.
    """

    who: str
    module: str
    peer: str | None = None
    options: tuple[tuple[str, str | int | bool], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What our median should reach.

    Attributes:
        against: competitors; the fastest of those that ran counts. Empty for a goal about memory.
        ratio: how many times faster we should be.
        peak_mib: how much memory our process may have used at its peak.
    """

    against: tuple[str, ...] = ()
    ratio: float = 0
    peak_mib: int | None = None


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A piece of work, who does it, and how often.

    Attributes:
        name: as in ``make bench BENCH=name``; its last part is the database.
        count: how many pieces of work one run does.
        unit: of the rate.
    """

    name: str
    title: str
    count: int
    unit: str
    competitors: tuple[Competitor, ...]
    goals: tuple[Goal, ...] = ()

    @property
    def store(self) -> str:
        """The database that the work is done on."""
        return self.name.rpartition(".")[2]
