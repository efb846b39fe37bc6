"""Time as a port: what the clock shows, what it counts, and how to wait.

Stores use their own database's clock; everything else takes a ``Clock``, so that tests can run on virtual time.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime, timedelta


class Clock(Protocol):
    """Tells and waits for time; the system's clock lives in ``pillarbox.app``, tests bring a virtual one."""

    @abstractmethod
    def now(self) -> datetime:
        """Return the present instant, aware and in UTC; it may jump when the machine's clock is set."""

    @abstractmethod
    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; it does not go backwards, so measure leases and delays with it."""

    @abstractmethod
    async def sleep(self, duration: timedelta) -> None:
        """Wait for ``duration``; zero or less gives other tasks one turn."""
