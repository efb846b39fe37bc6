"""Identities of messages: UUIDv7, so that ids made later sort later and index pages stay warm.

Source: RFC 9562.
"""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    # Its own type, not the one in `compat`: its text costs 0.5 us instead of 3 us, and text is all we need.
    from uuid_utils import uuid7


def new_message_id() -> str:
    """Return a new id in canonical text form; unique across processes, threads and forks."""
    return str(uuid7())
