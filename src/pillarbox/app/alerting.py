"""Who is alerted of what happens in a box."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

from pillarbox.alerts import Alarm, AlertRules, AlertSender, AlertTarget, HealthWatch
from pillarbox.app.assembly import Parts
from pillarbox.app.controlling import control_of
from pillarbox.app.settings import Settings
from pillarbox.errors import ConfigurationError
from pillarbox.errors.values import check_value
from pillarbox.idempotency import InboxSettings
from pillarbox.lease import LeaseKeeper, LeaseTerms
from pillarbox.message import new_message_id
from pillarbox.observe import Observers
from pillarbox.rounds import Loop

SCOPE = "alerts"
DEFAULT_RULES = AlertRules()


class Alerting(ABC):
    """The part of a box that alerts."""

    name: str
    settings: Settings
    observers: Observers

    @abstractmethod
    def _check_can_be_heard(self) -> None: ...

    @cached_property
    def _alarms(self) -> list[Alarm]:
        return []

    def alert_to(self, target: AlertTarget, /, *, rules: AlertRules = DEFAULT_RULES) -> None:
        """Alert ``target`` of what needs a decision or has waited too long, while the box runs.

        Args:
            target: any asynchronous function of an ``Alert``, a ``WebhookAlert``, or a ``LogAlert``.
            rules: what is worth an alert.

        Raises:
            ConfigurationError: the target is no function, or the rules are none, or the box is running.
        """
        self._check_can_be_heard()
        if isinstance(target, type) or not callable(target):
            raise ConfigurationError(f"alert_to() takes an asynchronous function or an alert, got {target!r:.200}")
        check_value(rules, AlertRules, name="alert_to(rules=)")
        alarm = Alarm(self.name, target, rules, clock=self.settings.clock, new_id=new_message_id)
        self._alarms.append(alarm)
        self.observers.add(alarm, beside=True)


def alert_workers(alarms: Sequence[Alarm], parts: Parts, inbox: InboxSettings) -> list[Loop]:
    """Make the loops that send alerts, and the one that looks for what no event tells of."""
    if not alarms:
        return []
    terms = LeaseTerms(scope=f"{SCOPE}:{parts.service}", slots=1, ttl=parts.relay.lease)
    keeper = LeaseKeeper(terms, parts.worker, store=parts.store.leases, source=parts.store, clock=parts.clock)
    senders = [AlertSender(alarm, clock=parts.clock, observer=parts.observers) for alarm in alarms]
    health = control_of(parts.store, inbox).health
    return [*senders, HealthWatch(alarms, health=health, keeper=keeper, observer=parts.observers)]
