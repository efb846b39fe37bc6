"""Why something did not come, as far as this database knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pillarbox.flow.graph import Graph
from pillarbox.flow.policy import Missing
from pillarbox.flow.record import Handling, HandlingState, SeenMessage
from pillarbox.flow.store import FlowJournal
from pillarbox.transaction import TransactionSource

MOST_PUT_ASIDE = 1000
"""Messages of one process that wait or are dead, and are looked at."""
WORDS = {
    HandlingState.HANDLED: "it has handled that, and nothing came of it",
    HandlingState.WAITING: "that waits there: pillarbox held list --consumer {consumer}",
    HandlingState.DEAD: "that is dead there: pillarbox dead-letters list --consumer {consumer}",
    HandlingState.DISCARDED: "that was given up there",
}


class Reasons:
    """Looks for what became of the messages that nothing followed."""

    def __init__(self, journal: FlowJournal, source: TransactionSource) -> None:
        """Read ``journal``."""
        self._journal = journal
        self._source = source

    async def explain(
        self, missing: Sequence[Missing], messages: Sequence[SeenMessage], *, looks_aside: bool = True
    ) -> tuple[Missing, ...]:
        """Return ``missing`` of one process with what is known of the reasons.

        Args:
            missing: what did not come.
            messages: what was seen of the process.
            looks_aside: also look for commands among all that waits and is dead, which may be much.
        """
        triggers = {one.message_id for one in missing if one.message_id is not None and one.consumer is not None}
        if not triggers:
            return tuple(missing)
        known = {(one.consumer, one.message_id): one for one in await self._handlings(triggers)}
        ways = {name for one in missing for name in one.by_way_of}
        aside: list[tuple[SeenMessage, Handling]] = []
        for process in {one.correlation_id for one in messages} if ways and looks_aside else ():
            aside += await self.put_aside(process, sorted(ways))
        return tuple(_explained(one, known, _on_its_way(one, aside, triggers)) for one in missing)

    async def put_aside(self, correlation_id: str, consumers: Sequence[str]) -> Sequence[tuple[SeenMessage, Handling]]:
        """Return what of a process waits or is dead in ``consumers``."""
        if not consumers:
            return ()
        return await self._source.run(self._journal.put_aside(correlation_id, consumers, limit=MOST_PUT_ASIDE))

    async def _handlings(self, message_ids: set[str]) -> Sequence[Handling]:
        return await self._source.run(self._journal.handlings(message_ids))


def _on_its_way(
    one: Missing, aside: Sequence[tuple[SeenMessage, Handling]], triggers: set[str]
) -> tuple[SeenMessage, Handling] | None:
    """Return the command that what is missing would have come of, if it waits or is dead somewhere."""
    for command, handling in aside:
        is_of_another = command.causation_id in triggers and command.causation_id != one.message_id
        if handling.consumer in one.by_way_of and not is_of_another:
            return command, handling
    return None


def _explained(
    one: Missing, known: Mapping[tuple[str, str], Handling], on_its_way: tuple[SeenMessage, Handling] | None
) -> Missing:
    if on_its_way is not None:
        command, handling = on_its_way
        one = replace(one, consumer=handling.consumer, after=command.type, message_id=command.message_id, by_way_of=())
    else:
        found = known.get((one.consumer or "", one.message_id or ""))
        if found is None:
            return one
        handling = found
        if handling.state is not HandlingState.HANDLED:  # it has sent no command yet
            one = replace(one, by_way_of=())
    return replace(one, because=WORDS[handling.state].format(consumer=handling.consumer))


def takers_of_commands(graph: Graph) -> list[str]:
    """Return the consumers of queues, whose messages are seen by nobody else."""
    return [one.consumer for one in graph.participants if any(not heard.is_event for heard in one.hears)]
