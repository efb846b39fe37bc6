"""Diagnosis: what about a database or a broker endangers messages, with what it means and what to do.

An adapter reads facts, a pure function of its own turns them into findings, and this puts findings in order.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Protocol

from pillarbox.errors import BrokerUnavailableError


class Severity(StrEnum):
    """``error``: messages are lost, or none flow; ``warning``: they can be; ``notice``: good to know."""

    OK = "ok"
    NOTICE = "notice"
    WARNING = "warning"
    ERROR = "error"


WORST_FIRST = (Severity.ERROR, Severity.WARNING, Severity.NOTICE, Severity.OK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        code: what kind of finding it is; stays the same over releases.
        subject: what it is about: a setting, a table, a session.
        what: what was found.
        means: what follows from it for messages; empty where all is well.
        do: what to do about it; empty where nothing need be done.
    """

    code: str
    severity: Severity
    subject: str
    what: str
    means: str = ""
    do: str = ""


def problem(code: str, severity: Severity, subject: str, what: str, *, means: str, do: str) -> Finding:
    """Return a finding that is worth a word."""
    return Finding(code=code, severity=severity, subject=subject, what=what, means=means, do=do)


def well(code: str, subject: str, what: str) -> Finding:
    """Return the finding that all is well."""
    return Finding(code=code, severity=Severity.OK, subject=subject, what=what)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosisLimits:
    """From where on something is worth a word.

    Attributes:
        oldest_transaction: how long a transaction may be open, anybody's in the cluster.
        dead_rows: how many dead rows a table of ours may have, if they outnumber the living.
        retained_bytes: how much WAL a replication slot may hold back.
    """

    oldest_transaction: timedelta = timedelta(seconds=60)
    dead_rows: int = 10_000
    retained_bytes: int = 1 << 30


class Diagnosable(Protocol):
    """A store or a broker that can say what is amiss with it."""

    @abstractmethod
    async def diagnose(self, *, deep: bool) -> Sequence[Finding]:
        """Look, change nothing, and return what was found, good and bad.

        Args:
            deep: do what takes as long as the data are large, too.

        Raises:
            StoreUnavailableError: a store cannot be reached.
            BrokerUnavailableError: a broker cannot be reached.
        """


class SharedWithOthers(Diagnosable, Protocol):
    """A broker that cannot tell our channels from what other programs keep there: it has to be told which are ours."""

    @abstractmethod
    def look_at(self, channels: Iterable[str], /) -> None:
        """Have ``channels`` looked at, beside those that were declared; nothing of anybody else is judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was found, worst first."""

    worst: Severity
    findings: tuple[Finding, ...]


class Doctor:
    """Asks everything that a box stands on."""

    def __init__(self, patients: Sequence[Diagnosable]) -> None:
        """Ask ``patients``, in this order."""
        self._patients = patients

    async def examine(self, *, deep: bool = False) -> Diagnosis:
        """Return the findings about all of them; a broker that is away is one, and hides nothing of the others.

        Raises:
            StoreUnavailableError: the store cannot be reached.
        """
        found: list[Finding] = []
        for one in self._patients:
            try:
                found += await one.diagnose(deep=deep)
            except BrokerUnavailableError as error:
                found.append(_away(error))
        return diagnosis_of(found)


def _away(error: BrokerUnavailableError) -> Finding:
    means = "what is published waits in the outbox, and consumers get nothing"
    do = "check that it runs, and can be reached from here as broker= says"
    return problem("broker-away", Severity.ERROR, error.broker, error.reason, means=means, do=do)


def diagnosis_of(findings: Sequence[Finding]) -> Diagnosis:
    """Put findings in order; those of one severity keep theirs."""
    ordered = sorted(findings, key=lambda finding: WORST_FIRST.index(finding.severity))
    return Diagnosis(worst=ordered[0].severity if ordered else Severity.OK, findings=tuple(ordered))
