"""Where Kafka's Java client puts a key."""

from __future__ import annotations

M, BITS = 0x5BD1E995, 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """Return the hash of a record's key, positive as the partitioner takes it."""
    found = 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for start in range(0, whole, 4):
        part = int.from_bytes(key[start : start + 4], "little") * M & BITS
        part = (part ^ part >> 24) * M & BITS
        found = found * M & BITS ^ part
    if rest := key[whole:]:
        found = (found ^ int.from_bytes(rest, "little")) * M & BITS
    found = (found ^ found >> 13) * M & BITS
    return (found ^ found >> 15) & 0x7FFFFFFF
