"""What the machine is tried on: definitions of which nothing can be called, and their journals."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pillarbox.retry import Retry
from pillarbox.saga.definition import ONCE, Kind
from pillarbox.saga.happening import Cancelled, Happening, Moment, Plan, Retried, Skipped
from pillarbox.saga.journal import Direction, Journal
from pillarbox.saga.machine import observe, plan
from pillarbox.saga.shape import UNSHAPED

DO, UNDO = Direction.DO, Direction.UNDO
SECOND_US = 1_000_000


@dataclass(frozen=True)
class OneAct:
    kind: Kind
    retry: Retry = ONCE
    timeout: timedelta | None = None


@dataclass(frozen=True)
class OneStep:
    name: str
    do: OneAct
    undo: OneAct | None = None
    pivot: bool = False


@dataclass(frozen=True)
class Stages:
    stages: tuple[tuple[OneStep, ...], ...]

    @staticmethod
    def of(*steps: OneStep) -> Stages:
        """Return the definition of steps one after the other."""
        return Stages(tuple((step,) for step in steps))

    def observed(self, journal: Journal, *happenings: Happening, at_us: int = SECOND_US) -> Journal:
        """Return ``journal`` with what has happened; what operators say needs no definition."""
        for what in happenings:
            shape = UNSHAPED if isinstance(what, Retried | Cancelled | Skipped) else self
            journal = observe(shape, journal, what, Moment(now_us=at_us, token="t"))
        return journal

    def planned(self, journal: Journal, *, at_us: int = SECOND_US) -> Plan:
        """Return what is to be done."""
        return plan(self, journal, Moment(now_us=at_us, token="t"))

    def after(self, journal: Journal, *happenings: Happening, at_us: int = SECOND_US) -> Journal:
        """Return ``journal`` with what has happened one after the other, and what followed from each."""
        for what in happenings:
            journal = self.planned(self.observed(journal, what, at_us=at_us), at_us=at_us).journal
        return journal
