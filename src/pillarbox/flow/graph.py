"""Who hears what, and what they may publish then: the graph of a choreography, as plain data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pillarbox.errors import ConfigurationError
from pillarbox.flow.mermaid import mermaid_of
from pillarbox.flow.participant import Participant, Passage, passages_of


class Expectation(NamedTuple):
    """What can be seen of a participant's reaction.

    Attributes:
        types: the events of which one may come, at once or by way of commands.
        is_certain: one of them must come, as far as the graph tells.
        by_way_of: the consumers of the commands in between.
    """

    types: frozenset[str]
    is_certain: bool
    by_way_of: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The consumers of one service or of many, by name, with the events at which its flows start and end."""

    participants: tuple[Participant, ...] = ()
    starts: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()

    def hearers(self, passage: Passage) -> Iterator[Participant]:
        """Return who handles ``passage``."""
        return (one for one in self.participants if passage in one.hears)

    def publishers(self, passage: Passage) -> Iterator[Participant]:
        """Return who may publish ``passage``."""
        return (one for one in self.participants if passage in one.publishes)

    def passages(self) -> tuple[Passage, ...]:
        """Return every type on every channel that somebody hears or publishes."""
        return passages_of(self.participants)

    def channels_of(self, kind: str) -> tuple[Passage, ...]:
        """Return the events of the type ``kind``."""
        return tuple(one for one in self.passages() if one.type == kind and one.is_event)

    def after(self, begin: Iterable[Passage]) -> frozenset[Passage]:
        """Return what may follow ``begin``, at once or later, and ``begin`` itself."""
        return _closure(begin, lambda heard: (each for one in self.hearers(heard) for each in one.answers_to(heard)))

    def before(self, end: Iterable[Passage]) -> frozenset[Passage]:
        """Return what may lead to ``end``, at once or later, and ``end`` itself."""
        return _closure(end, self.causes_of)

    def causes_of(self, passage: Passage) -> frozenset[Passage]:
        """Return what may lead to ``passage`` at once."""
        publishers = self.publishers(passage)
        return frozenset(heard for one in publishers for heard in one.hears if passage in one.answers_to(heard))

    def expected_of(self, one: Participant, heard: Passage) -> Expectation:
        """Return what can be seen of the reaction of ``one`` to ``heard``."""
        return self._expected(one, heard, frozenset({heard}))

    def _expected(self, one: Participant, heard: Passage, on_the_way: frozenset[Passage]) -> Expectation:
        answers = one.answers_to(heard)
        types, by_way_of = set[str](), list[str]()
        is_certain = bool(answers) and not one.may_be_silent and not one.is_open
        for answer in answers:
            if answer.is_event:
                types.add(answer.type)
                continue
            hearers = [] if answer in on_the_way else list(self.hearers(answer))
            deeper = [self._expected(hearer, answer, on_the_way | {answer}) for hearer in hearers]
            types.update(kind for expectation in deeper for kind in expectation.types)
            by_way_of += [hearer.consumer for hearer in hearers]
            by_way_of += [name for expectation in deeper for name in expectation.by_way_of]
            is_certain = is_certain and bool(deeper) and all(expectation.is_certain for expectation in deeper)
        return Expectation(frozenset(types), is_certain, tuple(dict.fromkeys(by_way_of)))

    def merged(self, *others: Graph) -> Graph:
        """Return this graph with those of others; of a consumer that several know the first one's word counts."""
        known: dict[str, Participant] = {}
        for graph in (self, *others):
            for one in graph.participants:
                known.setdefault(one.consumer, one)
        return Graph(
            participants=tuple(known[name] for name in sorted(known)),
            starts=tuple(dict.fromkeys(kind for graph in (self, *others) for kind in graph.starts)),
            ends=tuple(dict.fromkeys(kind for graph in (self, *others) for kind in graph.ends)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it in JSON's types, as ``pillarbox flow graph --json`` prints it; ``from_dict`` reads it again."""
        messages = [{"type": one.type, "channel": one.channel} for one in self.passages()]
        consumers = [one.as_dict() for one in self.participants]
        return {"messages": messages, "consumers": consumers, "starts": list(self.starts), "ends": list(self.ends)}

    def json(self) -> str:
        """Return it as JSON text."""
        return json.dumps(self.as_dict(), ensure_ascii=False, indent=2)

    def mermaid(self) -> str:
        """Return it as a Mermaid flowchart: events round, commands slanted, consumers in boxes."""
        return mermaid_of(self.participants, starts=self.starts, ends=self.ends)

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Graph:
        """Read what ``as_dict`` has written.

        Raises:
            ConfigurationError: it is something else.
        """
        try:
            return cls(
                participants=tuple(Participant.from_dict(one) for one in facts["consumers"]),
                starts=tuple(str(kind) for kind in facts.get("starts", ())),
                ends=tuple(str(kind) for kind in facts.get("ends", ())),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"this is no graph ({type(error).__name__}: {error}); give what pillarbox flow graph --json prints"
            ) from error


def _closure(begin: Iterable[Passage], following: Callable[[Passage], Iterable[Passage]]) -> frozenset[Passage]:
    found = dict.fromkeys(begin)
    waiting = list(found)
    for passage in waiting:
        fresh = [each for each in dict.fromkeys(following(passage)) if each not in found]
        found.update(dict.fromkeys(fresh))
        waiting += fresh
    return frozenset(found)
