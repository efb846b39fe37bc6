"""A connection that is made when it is needed, and made again after it was lost."""

from __future__ import annotations

import asyncio

from pillarbox.brokers.rabbitmq.address import Address
from pillarbox.brokers.rabbitmq.wire import Wire, connect


class Line:
    """One connection, or several where there are very many channels; nothing is tried by itself."""

    def __init__(self, address: Address, *, heartbeat_s: int) -> None:
        """Reach the server at ``address``; connects to nothing."""
        self._address = address
        self._heartbeat_s = address.heartbeat_s or heartbeat_s
        self._wires: list[Wire] = []
        self._connecting = asyncio.Lock()

    async def wire(self) -> Wire:
        """Return a connection with room for channels, a new one if there is none or all are lost.

        Raises:
            BrokerUnavailableError: the server cannot be reached, gave no answer in time, or refused.
        """
        async with self._connecting:
            self._wires = [wire for wire in self._wires if wire.lost is None]
            for wire in self._wires:
                if not wire.is_full:
                    return wire
            wire = await connect(self._address, heartbeat_s=self._heartbeat_s)
            self._wires.append(wire)
            return wire

    async def close(self) -> None:
        """Close every connection; they are made again when they are needed."""
        wires, self._wires = self._wires, []
        for wire in wires:
            await wire.close()
