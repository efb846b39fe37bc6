"""What can go wrong with a test server.

ServerError
├── ServerMissingError    the program is not on this machine and could not be installed
└── ServerStartError      the program is there and did not become ready
"""

from __future__ import annotations


class ServerError(Exception):
    """A test server is not to be had, or refuses what it was asked."""


class ServerMissingError(ServerError):
    """The program is not on this machine and could not be installed; the message says why and what to do."""


class ServerStartError(ServerError):
    """The program did not become ready; nothing of it runs any more. The message ends with the tail of its log."""
