"""In which groups a batch is sent: pure decisions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pillarbox.relay.reader import PendingRecord


def waves(batch: Sequence[PendingRecord], *, ordered_prefix: bool) -> Iterator[list[PendingRecord]]:
    """Divide ``batch`` so that no failure can let a later message of a key overtake an earlier one.

    Where the sender stores a prefix or nothing beyond it, the batch goes as a whole. Elsewhere each wave holds one
    message of each key, and the next wave follows the confirms of the one before it.
    """
    if ordered_prefix:
        if batch:
            yield list(batch)
        return
    rest = list(batch)
    while rest:
        wave: list[PendingRecord] = []
        later: list[PendingRecord] = []
        taken = set[tuple[str, str]]()
        for record in rest:
            place = key_of(record)
            if place in taken:
                later.append(record)
            else:
                taken.add(place)
                wave.append(record)
        yield wave
        rest = later


def key_of(record: PendingRecord) -> tuple[str, str]:
    """Return what the record must stay in order with: its destination's key, or itself where it has no key."""
    message = record.message
    return (message.destination, f"m:{message.id}" if message.key is None else f"k:{message.key}")
