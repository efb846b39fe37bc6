"""The port through which a consumer asks for numbered messages that did not reach it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from pillarbox.message import Message, Number


class Kept(Protocol):
    """Who keeps what a producer has published.

    Every implementation must pass ``pillarbox.testing.contracts.KeptContract``.
    """

    @abstractmethod
    async def fetch(self, destination: str, key: str, *, first: Number, last: int) -> Sequence[Message]:
        """Return what is kept of the line's messages with numbers from ``first`` to ``last`` of its epoch.

        They are returned as they were published, by number, at most 500 of them.
        """
