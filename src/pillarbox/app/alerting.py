"""Who is alerted of what happens in a box."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from pillarbox.alerts import Alarm, AlertRules, AlertSender, AlertTarget, HealthWatch
from pillarbox.app.assembly import Parts
from pillarbox.app.controlling import control_of
from pillarbox.app.settings import Settings
from pillarbox.idempotency import InboxSettings
from pillarbox.lease import LeaseKeeper, LeaseTerms
from pillarbox.message import new_message_id
from pillarbox.observe import Observers
from pillarbox.rounds import Loop

SCOPE = "alerts"
DEFAULT_RULES = AlertRules()


class Alerting:
    """The part of a box that alerts."""

    name: str
    settings: Settings
    observers: Observers

    @cached_property
    def _alarms(self) -> list[Alarm]:
        return []

    def alert_to(self, target: AlertTarget, /, *, rules: AlertRules = DEFAULT_RULES) -> None:
        """Alert ``target`` of what needs a decision or has waited too long, from now on, while the box runs.

        Args:
            target: any asynchronous function of an ``Alert``, a ``WebhookAlert``, or a ``LogAlert``.
            rules: what is worth an alert.
        """
        alarm = Alarm(self.name, target, rules, clock=self.settings.clock, new_id=new_message_id)
        self._alarms.append(alarm)
        self.observers.add(alarm)


def alert_workers(alarms: Sequence[Alarm], parts: Parts, inbox: InboxSettings) -> list[Loop]:
    """Make the loops that send alerts, and the one that looks for what no event tells of."""
    if not alarms:
        return []
    terms = LeaseTerms(scope=f"{SCOPE}:{parts.service}", slots=1, ttl=parts.relay.lease)
    keeper = LeaseKeeper(terms, parts.worker, store=parts.store.leases, source=parts.store, clock=parts.clock)
    senders = [AlertSender(alarm, clock=parts.clock, observer=parts.observers) for alarm in alarms]
    health = control_of(parts.store, inbox).health
    return [*senders, HealthWatch(alarms, health=health, keeper=keeper, observer=parts.observers)]
