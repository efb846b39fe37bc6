"""Routing: where a message goes, decided by what it holds. Pure decisions; a consumer carries them out.

Guarantee: the same message is decided the same way; what nothing matches is never dropped in silence.
Not promised: that a predicate of yours is quick or without effects; data conditions are both.
Source: EIP, *Message Routing*; the reading order is view, conditions, reach, route, then a kind of route, copies.
"""

from pillarbox.routing.conditions import Condition, ConditionLike, condition_of
from pillarbox.routing.content_based_router import ContentBasedRouter
from pillarbox.routing.copies import copies_of
from pillarbox.routing.message_filter import MessageFilter
from pillarbox.routing.recipient_list import RecipientList
from pillarbox.routing.route import Decision, Explanation, Route, RuleExplanation
from pillarbox.routing.view import Reader, RoutedMessage
from pillarbox.routing.wire_tap import WireTap

__all__ = [
    "Condition",
    "ConditionLike",
    "ContentBasedRouter",
    "Decision",
    "Explanation",
    "MessageFilter",
    "Reader",
    "RecipientList",
    "Route",
    "RoutedMessage",
    "RuleExplanation",
    "WireTap",
    "condition_of",
    "copies_of",
]
