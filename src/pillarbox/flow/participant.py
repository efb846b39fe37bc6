"""A consumer as the others see it: what it hears and what it publishes, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Passage(NamedTuple):
    """A type of messages on a channel: ``order.placed`` on ``topic:order``."""

    type: str
    channel: str

    @property
    def is_event(self) -> bool:
        """Whether everyone who subscribed gets it, so that it can be watched."""
        return self.channel.startswith("topic:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """A consumer as the others see it.

    Attributes:
        consumer: ``<service>/<name>``.
        hears: what it handles.
        publishes: what it may publish when it has handled a message.
        forwards: it is a route: it publishes copies of what it hears.
        may_be_silent: it may handle a message and publish nothing.
        is_open: it does not say what it publishes.
    """

    consumer: str
    hears: tuple[Passage, ...]
    publishes: tuple[Passage, ...] = ()
    forwards: bool = False
    may_be_silent: bool = False
    is_open: bool = False

    def answers_to(self, heard: Passage) -> tuple[Passage, ...]:
        """Return what may follow ``heard``."""
        if self.forwards:
            return tuple(copy for copy in self.publishes if copy.type == heard.type)
        return self.publishes

    def as_dict(self) -> dict[str, Any]:
        """Return it in JSON's types; ``from_dict`` reads it again."""
        return {
            "consumer": self.consumer,
            "hears": [each._asdict() for each in self.hears],
            "publishes": [each._asdict() for each in self.publishes],
            "forwards": self.forwards,
            "may_be_silent": self.may_be_silent,
            "is_open": self.is_open,
        }

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Participant:
        """Read what ``as_dict`` has written."""
        return cls(
            consumer=str(facts["consumer"]),
            hears=tuple(Passage(one["type"], one["channel"]) for one in facts["hears"]),
            publishes=tuple(Passage(one["type"], one["channel"]) for one in facts["publishes"]),
            forwards=bool(facts.get("forwards")),
            may_be_silent=bool(facts.get("may_be_silent")),
            is_open=bool(facts.get("is_open")),
        )


def passages_of(participants: Iterable[Participant]) -> tuple[Passage, ...]:
    """Return every type on every channel that one of ``participants`` hears or publishes."""
    return tuple(sorted({each for one in participants for each in (*one.hears, *one.publishes)}))
