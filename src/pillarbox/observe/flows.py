"""What happens in flows, as typed events."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowStuck:
    """Something of one process of a flow did not come in time; each such thing is told of once, by one process.

    Attributes:
        culprit: the consumer that has not reacted, as far as is known, or the type of the message that nothing
            followed; empty where only the end is known to be missing.
        missing: what did not come, a sentence each.
    """

    flow: str
    correlation_id: str
    culprit: str
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowDoubtful:
    """A process starts that declares a flow which cannot come to its end, as far as its graph tells."""

    flow: str
    code: str
    subject: str
    what: str
