"""How much of the long work the tests do: a part of it by default, all of it with ``PILLARBOX_THOROUGH=1``."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

THOROUGH = os.environ.get("PILLARBOX_THOROUGH", "").lower() not in {"", "0", "false"}


def of(full: T, part: T) -> T:
    """Return ``full`` where everything is wanted, else ``part``."""
    return full if THOROUGH else part
