"""Free loopback ports for servers."""

from __future__ import annotations

import random
import socket

# Below the range from which systems take ports for outgoing connections: a client that dials a dead server's port
# over and over would else one day be given that very port and reach itself.
_RANGE = range(20_000, 32_000)
_dice = random.SystemRandom()


def free_port() -> int:
    """Pick a port on 127.0.0.1 that nobody listens on; somebody may take it before it is used."""
    for _ in range(200):
        port = _dice.choice(_RANGE)
        if _is_free(port):
            return port
    raise OSError(f"no free port found on 127.0.0.1 between {_RANGE.start} and {_RANGE.stop}")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
