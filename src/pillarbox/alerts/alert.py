"""What somebody is told, and who can be told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

Fact: TypeAlias = str | int | float | timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert. Bodies, keys and headers of messages, and the texts of handlers' exceptions, are never in it.

    Attributes:
        id: the same when it is sent again.
        service: whose box sends it.
        rule: why, as in ``dead-letter``; see ``AlertRules``.
        subject: about what: a consumer, a dependency, a channel; it is not repeated for a while.
        text: the same in a sentence for people, with what to do.
        count: how often it has happened since the last alert about it, this time included.
        facts: what is known besides, by name.
    """

    id: str
    at: datetime
    service: str
    rule: str
    subject: str
    text: str
    count: int
    facts: Mapping[str, Fact]


AlertTarget: TypeAlias = Callable[[Alert], Awaitable[None]]
"""Whoever is told: any asynchronous function. It is cancelled when it takes long, and tried again when it raises."""
