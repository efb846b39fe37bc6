"""The machine's clock."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

from pillarbox.clock import Clock


class SystemClock(Clock):
    """Real time."""

    def now(self) -> datetime:
        """Return the present instant in UTC."""
        return datetime.now(tz=UTC)

    def monotonic(self) -> float:
        """Return seconds that only grow, also while the process is stopped."""
        return time.monotonic()

    async def sleep(self, duration: timedelta) -> None:
        """Wait."""
        await asyncio.sleep(max(duration.total_seconds(), 0))  # noqa: TID251  # the one place that may
