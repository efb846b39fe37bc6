"""Lanes: buckets of keys that are handled side by side, each in its own order. Pure decisions."""

from __future__ import annotations

from zlib import crc32


def lane_of(key: str, lanes: int) -> int:
    """Return the lane of ``key``, below ``lanes``; the same in every process."""
    return crc32(key.encode("utf-8", "surrogatepass")) % lanes


class RunSize:
    """How many messages a lane handles in one transaction: fewer after trouble, more again after success."""

    def __init__(self, *, largest: int) -> None:
        """Begin with the largest size."""
        self._largest = largest
        self.size = largest

    @property
    def is_largest(self) -> bool:
        """Whether there was no trouble lately."""
        return self.size == self._largest

    def shrink(self) -> None:
        """Halve."""
        self.size = max(1, self.size // 2)

    def grow(self) -> None:
        """Double, up to the largest."""
        self.size = min(self._largest, self.size * 2)
