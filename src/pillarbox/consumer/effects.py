"""What a run wishes to have done, what it is told of it, and how it ends when all must be done again."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from pillarbox.consumer.context import Context
from pillarbox.consumer.injection import CONTEXTS
from pillarbox.consumer.item import Item
from pillarbox.retry import Verdict
from pillarbox.transaction import Execute


class Invoke(msgspec.Struct, frozen=True, kw_only=True):
    """The wish to have the handler invoked.

    Attributes:
        payloads: one, or more for a handler of batches.
        contexts: one for each payload.
        is_batch: the handler takes a list of payloads.
    """

    payloads: tuple[object, ...]
    contexts: tuple[Context, ...]
    is_batch: bool = False

    @property
    def payload(self) -> object:
        """What the handler gets first."""
        return list(self.payloads) if self.is_batch else self.payloads[0]

    def asked(self, kind: object) -> object | None:
        """Return what the handler gets for an annotation of ``kind``, if that is about its messages."""
        if kind is Context:
            return self.contexts[0]
        return list(self.contexts) if kind == CONTEXTS else None


class Returned(msgspec.Struct, frozen=True):
    """The handler returned."""

    value: object


class Raised(msgspec.Struct, frozen=True):
    """The handler raised.

    Attributes:
        touched: it had executed a statement in the run's transaction by then.
        inherited: an earlier handler of the run had left the transaction unusable.
    """

    error: Exception
    touched: bool
    inherited: bool = False


Effect: TypeAlias = Execute | Invoke


class RunSpoiled(Exception):  # noqa: N818  # not an error of anybody's: the transaction must be done again
    """A handler failed after it had written: the run must be rolled back and divided.

    Attributes:
        item: whose handler it was.
        verdict: what follows for the item; ``None`` when the database asked for the transaction again.
        handled: how many messages were handled before it.
    """

    def __init__(self, item: Item, verdict: Verdict | None, *, handled: int = 0) -> None:
        """Name the item."""
        super().__init__(f"message {item.message.id} spoiled its run")
        self.item = item
        self.verdict = verdict
        self.handled = handled


class BatchSpoiled(Exception):  # noqa: N818  # as above
    """A handler failed with several messages in its hands: whose fault it was is found by trying fewer of them."""
