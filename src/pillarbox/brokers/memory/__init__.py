"""A broker inside the process, for tests and for trying things out.

Guarantee: the same behaviour as any other broker while the process lives.
Not promised: anything beyond the life of the process.
Source: EIP, *Message Channel*; the reading order is broker.
"""

from pillarbox.brokers.memory.broker import MemoryBroker

__all__ = ["MemoryBroker"]
