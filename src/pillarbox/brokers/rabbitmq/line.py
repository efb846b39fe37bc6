"""A connection that is made when it is needed, and made again after it was lost."""

from __future__ import annotations

import asyncio

from pillarbox.brokers.rabbitmq.address import Address
from pillarbox.brokers.rabbitmq.wire import Wire, connect


class Line:
    """At most one connection at a time; nothing is tried by itself, the caller decides when."""

    def __init__(self, address: Address, *, heartbeat_s: int) -> None:
        """Reach the server at ``address``; connects to nothing."""
        self._address = address
        self._heartbeat_s = address.heartbeat_s or heartbeat_s
        self._wire: Wire | None = None
        self._connecting = asyncio.Lock()

    async def wire(self) -> Wire:
        """Return the connection, a new one if there is none or it is lost.

        Raises:
            BrokerUnavailableError: the server cannot be reached, gave no answer in time, or refused.
        """
        async with self._connecting:
            if self._wire is None or self._wire.lost is not None:
                self._wire = await connect(self._address, heartbeat_s=self._heartbeat_s)
            return self._wire

    async def close(self) -> None:
        """Close the connection; it is made again when it is needed."""
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()
