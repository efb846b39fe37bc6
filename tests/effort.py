"""How much of the long work the tests do: a part of it by default, all of it with ``PILLARBOX_THOROUGH=1``."""

from __future__ import annotations

import os

THOROUGH = os.environ.get("PILLARBOX_THOROUGH", "").lower() not in {"", "0", "false"}


def of(full: int, part: int) -> int:
    """Return ``full`` where everything is wanted, else ``part``."""
    return full if THOROUGH else part
