"""The RabbitMQ that consumers of a benchmark read from: started by each competitor's process, before its time begins.

Runs in the environments of peers too, so it needs nothing but the standard library.
"""

from __future__ import annotations

from tests.servers.rabbitmq import RabbitMqServer

AT_ONCE = 500
"""How many messages are under way while the queues are filled."""


def private_rabbitmq() -> RabbitMqServer:
    """Return a server that runs for as long as a ``with`` block."""
    return RabbitMqServer()
