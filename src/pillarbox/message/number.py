"""The number of a message: its place in the line of its destination and key."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pillarbox.message import headers as names

if TYPE_CHECKING:
    from pillarbox.message.message import Message

_MOST_DIGITS = 18


class Number(NamedTuple):
    """A place in a line; places are compared by their epoch first.

    Attributes:
        epoch: which of the counter's lives gave the number: a later one is greater, and its numbers begin at 1 again.
        number: counted from 1, without gaps.
    """

    epoch: int
    number: int

    @property
    def headers(self) -> dict[str, str]:
        """The headers that carry it. Source: CloudEvents, the extension *Sequence*."""
        return {names.SEQUENCE: str(self.number), names.SEQUENCE_EPOCH: str(self.epoch)}


def number_of(message: Message) -> Number | None:
    """Return the number of ``message``; ``None`` where it has none that can be read.

    A producer that is not ours may leave the epoch out, which is then 0.
    """
    number = _digits(message.headers.get(names.SEQUENCE))
    epoch = _digits(message.headers.get(names.SEQUENCE_EPOCH, "0"))
    return None if epoch is None or not number else Number(epoch, number)


def _digits(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None
