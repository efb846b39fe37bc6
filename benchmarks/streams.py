"""The Redis that a relay's benchmark publishes to: started by each competitor's process, before its time begins.

Runs in the environments of peers too, so it needs nothing but the standard library.
"""

from __future__ import annotations

from tests.servers.redis import RedisServer

SETTINGS = {"appendonly": "no"}
"""In memory alone, for everybody: what is compared is what it costs to get there."""
STREAM = "orders"


def private_redis() -> RedisServer:
    """Return a server that runs for as long as a ``with`` block."""
    return RedisServer(settings=SETTINGS)
