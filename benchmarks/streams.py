"""The broker that a benchmark publishes to or consumes from: started by each competitor, before its time begins.

Runs in the environments of peers too, so it needs nothing but the standard library.
"""

from __future__ import annotations

from tests.servers.nats import NatsServer
from tests.servers.redis import RedisServer
from tests.servers.server import Server

SETTINGS = {"appendonly": "no"}
"""Redis in memory alone, for everybody: what is compared is what it costs to get there. NATS has files, as it is."""
STREAM = "orders"
GROUP = "bench"


def private(broker: str) -> Server:
    """Return a server of the kind that runs for as long as a ``with`` block."""
    return RedisServer(settings=SETTINGS) if broker == "redis" else NatsServer()
