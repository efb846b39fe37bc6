"""Turns findings into alerts: each subject once in a while, what happens meanwhile counted, none of it blocking."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pillarbox.alerts.alert import Alert, AlertTarget
from pillarbox.alerts.rules import BREAKER_OPENED, MOST_SUBJECTS, AlertRules, Finding, Judge
from pillarbox.channel.wakeup import Wakeup
from pillarbox.control import Vitals
from pillarbox.observe import BreakerClosed, Event, Observer

if TYPE_CHECKING:
    from pillarbox.clock import Clock

MOST_WAITING = 1_000
"""Alerts that wait for a target; beyond it the oldest give way, and those that stay say how many did."""


@dataclass(slots=True)
class Told:
    """What was last told of a subject under a rule.

    Attributes:
        at: when, in seconds of the process's monotonic clock.
        latest: what has happened since; ``None`` if nothing has.
        count: and how often.
    """

    at: float
    latest: Finding | None = None
    count: int = 0


class Alarm(Observer):
    """Alerts one target, as its rules say: takes note of what happens, and lets a sender do the rest."""

    def __init__(
        self, service: str, target: AlertTarget, rules: AlertRules, *, clock: Clock, new_id: Callable[[], str]
    ) -> None:
        """Alert ``target`` of what happens in ``service``."""
        self.target = target
        self.rules = rules
        self.waiting: deque[Alert] = deque(maxlen=MOST_WAITING)
        self.wakeup = Wakeup()
        self._service = service
        self._clock = clock
        self._new_id = new_id
        self._judge = Judge(rules)
        self._told: OrderedDict[tuple[str, str], Told] = OrderedDict()

    @property
    def target_name(self) -> str:
        """What logs call the target; no secrets are in it."""
        return getattr(self.target, "__qualname__", None) or type(self.target).__qualname__

    def notice(self, event: Event, /) -> None:
        """Alert of ``event`` if a rule asks for it."""
        if isinstance(event, BreakerClosed) and (told := self._told.get((BREAKER_OPENED, event.dependency))):
            told.latest = None  # what is over is not told of again
        self._take(self._judge.of_event(event, self._clock.monotonic()))

    def notice_vitals(self, vitals: Vitals) -> None:
        """Alert of what has waited too long; what lasts is found again at the next look, and what is over is not."""
        self._take(self._judge.of_vitals(vitals), found_again=True)

    def remind(self) -> None:
        """Alert of what has gone on while nothing was said of it."""
        now = self._clock.monotonic()
        for told in self._told.values():
            if told.latest is not None and self._is_over(told, now):
                self._tell(told, told.latest, now)

    def _take(self, findings: Iterable[Finding], *, found_again: bool = False) -> None:
        now = self._clock.monotonic()
        for finding in findings:
            told = self._told.get((finding.rule, finding.subject))
            if told is None:
                told = self._told[finding.rule, finding.subject] = Told(at=float("-inf"))
                while len(self._told) > MOST_SUBJECTS:
                    self._told.popitem(last=False)
            self._told.move_to_end((finding.rule, finding.subject))
            told.count += 1
            if self._is_over(told, now):
                self._tell(told, finding, now)
            elif not found_again:
                told.latest = finding

    def _is_over(self, told: Told, now: float) -> bool:
        return now - told.at >= self.rules.repeat_after.total_seconds()

    def _tell(self, told: Told, finding: Finding, now: float) -> None:
        alert = Alert(
            id=self._new_id(),
            at=self._clock.now(),
            service=self._service,
            rule=finding.rule,
            subject=finding.subject,
            text=finding.text,
            count=told.count,
            facts=finding.facts,
        )
        told.at, told.latest, told.count = now, None, 0
        if len(self.waiting) == MOST_WAITING:
            lost = self.waiting.popleft()
            alert = replace(alert, facts={**alert.facts, "alerts_dropped": _dropped(alert) + _dropped(lost) + 1})
        self.waiting.append(alert)
        self.wakeup.ring()


def _dropped(alert: Alert) -> int:
    dropped = alert.facts.get("alerts_dropped", 0)
    return dropped if isinstance(dropped, int) else 0
