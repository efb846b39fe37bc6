"""What can be set about a box."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from pillarbox.app.system_clock import SystemClock
from pillarbox.clock import Clock
from pillarbox.errors.values import NO_NEGATIVE_TIME, SOME_TIME, Bounds, check_value, check_values
from pillarbox.idempotency import InboxSettings
from pillarbox.message import Limits, parse_destination
from pillarbox.relay import RelaySettings
from pillarbox.retry import Classification
from pillarbox.serialization import ForeignMessages
from pillarbox.telemetry import masked

SHORTEST_ANSWER = timedelta(milliseconds=100)
"""A connection alone takes some 10 ms: with less nothing would ever get done."""
LONGEST_ANSWER = timedelta(days=24)
"""PostgreSQL counts its limits in milliseconds, in 31 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be set about a box beyond its places.

    Attributes:
        relay: how relays poll, and how many duplicates a crash may cause.
        limits: what is refused at publish.
        classification: which exceptions are transient, which permanent.
        redact: what the texts and stacks of failures go through before they are stored; by default passwords are
            masked. Where it fails itself, the text is withheld.
        drain_within: how long a stopping box waits for handlers under way.
        answer_within: how long the database may take over what Pillarbox asks it; then the connection is given up.
        foreign: by channel (``topic:…``, ``queue:…``), how messages of others are read that are no CloudEvents.
        max_held: how many messages of one key a consumer puts aside while the key is held; what comes besides stays in
            its channel, and comes again until there is room. ``None`` sets no bound.
        inbox: for how long processed ids are kept, and dead letters may be replayed.
        keep_flows: for how long it is kept what was seen of flows, and which have ended.
        keep_sagas: for how long sagas that ended are kept; ``None`` for ever. What needs attention stays.
        outbox: where records wait for their relay: in a ``table``, or in the database's ``log`` alone, which only a
            relay of the kind ``log`` can read.
        clock: real time, or a test's.
        migrate_on_open: create missing tables when the box opens; ``None`` does so on SQLite only.
    """

    relay: RelaySettings = field(default_factory=RelaySettings)
    limits: Limits = field(default_factory=Limits)
    classification: Classification = field(default_factory=Classification)
    redact: Callable[[str], str] = masked
    drain_within: timedelta = timedelta(seconds=30)
    answer_within: timedelta = timedelta(seconds=30)
    foreign: Mapping[str, ForeignMessages] = field(default_factory=dict[str, ForeignMessages])
    max_held: int | None = 10_000
    inbox: InboxSettings = field(default_factory=InboxSettings)
    keep_flows: timedelta = timedelta(days=7)
    keep_sagas: timedelta | None = timedelta(days=30)
    outbox: Literal["table", "log"] = "table"
    clock: Clock = field(default_factory=SystemClock)
    migrate_on_open: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what means nothing.

        Raises:
            ConfigurationError: there is no room for any message, a time is none, or ``foreign`` names what is no
                channel.
        """
        check_values(
            self,
            max_held=Bounds(least=1, none="to set no bound"),
            drain_within=NO_NEGATIVE_TIME,
            answer_within=Bounds(least=SHORTEST_ANSWER, most=LONGEST_ANSWER),
            keep_flows=SOME_TIME,
            keep_sagas=Bounds(above=timedelta(0), none="to keep them for ever"),
            migrate_on_open=Bounds(none="to do so on SQLite only"),
        )
        for channel, foreign in self.foreign.items():
            check_value(channel, str, name="Settings.foreign: the name of a channel")
            parse_destination(channel)
            check_value(foreign, ForeignMessages, name=f"Settings.foreign[{channel!r}]")


DEFAULTS = Settings()
