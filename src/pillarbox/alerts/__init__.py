"""Alerts: somebody is told of what needs a decision, or has waited too long.

Guarantee: an alert is sent after what it tells of is durable, and no target delays a handler, however long it hangs.
Not promised: that each arrives, or arrives once; a process may end before it has sent one. Health stays.
Source: the alerts that operators of queues ask for; the reading order is alert, rules, alarm, sending, targets.
"""

from pillarbox.alerts.alarm import Alarm
from pillarbox.alerts.alert import Alert, AlertTarget
from pillarbox.alerts.rules import AlertRules
from pillarbox.alerts.sending import AlertSender
from pillarbox.alerts.targets import LogAlert, WebhookAlert
from pillarbox.alerts.watch import HealthWatch

__all__ = [
    "Alarm",
    "Alert",
    "AlertRules",
    "AlertSender",
    "AlertTarget",
    "HealthWatch",
    "LogAlert",
    "WebhookAlert",
]
