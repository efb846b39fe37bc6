"""Which order a consumer keeps: the values that handlers are declared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Unordered:
    """No order: a message that waits for its retry lets every other one pass."""


@dataclass(frozen=True, slots=True)
class ByKey:
    """The order of each key: while a message waits for its retry, the later ones of its key wait behind it."""


Ordering: TypeAlias = Unordered | ByKey
