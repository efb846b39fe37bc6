"""What a run did, item by item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pillarbox.consumer.item import Item
from pillarbox.errors import InvalidMessageError
from pillarbox.observe import Event
from pillarbox.outbox import OutboxRecord


@dataclass(slots=True)
class RunReport:
    """What a run did, item by item; true once its transaction commits.

    Attributes:
        behind: put behind an earlier message of their key that began to wait in this run.
        early: put aside by the gate, until what must come before them has.
        returned: given back to their channel: there is no room for them, behind their hold or in the gate.
        held: put behind a hold that was there before this run.
        left: not handled, since what the handler needs is down.
        notices: what the handlings want told of.
    """

    handled: list[Item] = field(default_factory=list[Item])
    suppressed: list[Item] = field(default_factory=list[Item])
    discarded: list[Item] = field(default_factory=list[Item])
    retried: list[Item] = field(default_factory=list[Item])
    dead: list[Item] = field(default_factory=list[Item])
    behind: list[Item] = field(default_factory=list[Item])
    early: list[Item] = field(default_factory=list[Item])
    returned: list[Item] = field(default_factory=list[Item])
    held: list[Item] = field(default_factory=list[Item])
    left: list[Item] = field(default_factory=list[Item])
    published: int = 0
    notices: list[Event] = field(default_factory=list[Event])

    def leave(self, items: Sequence[Item]) -> None:
        """Let ``items`` go back, and what else is of their keys: nothing may overtake them, nor be held before them."""
        keys = {item.hold_key for item in items}
        self.left += items
        for outcome in (self.retried, self.dead, self.behind, self.discarded):
            self.left += (item for item in outcome if item.hold_key in keys)
            outcome[:] = (item for item in outcome if item.hold_key not in keys)
        for item in self.left:
            item.verdict = None  # it comes again, and nothing has been decided then

    def keep_copies_together(self) -> None:
        """Let a second copy of what goes back go with it: both may be one delivery, which its channel gave out anew."""
        left, returned = ({item.message.id for item in items} for items in (self.left, self.returned))
        copies = [item for item in self.suppressed if item.message.id in left | returned]
        self.suppressed = without(self.suppressed, copies) if copies else self.suppressed
        for copy in copies:
            copy.returned = copy.message.id in returned
            (self.returned if copy.returned else self.left).append(copy)

    def taken(self, items: Sequence[Item]) -> list[Item]:
        """Return those of ``items``, which are all of the run's, that do not go back."""
        return [item for item in without(items, self.left) if not item.returned]

    def publisher_of(self, refused: InvalidMessageError, records: Sequence[OutboxRecord]) -> Item | None:
        """Return the item whose handler published the one of ``records`` that was refused."""
        causes = {one.message.causation_id for one in records if one.message.id == refused.message_id}
        return next((item for item in self.handled if item.message.id in causes), None)


def sort_out(items: Sequence[Item], report: RunReport, *, waiting: list[Item]) -> None:
    """Note what was not admitted: in ``report`` what is given back, in its list ``waiting`` what was put aside."""
    for item in items:
        (report.returned if item.returned else waiting).append(item)


def without(items: Sequence[Item], others: Sequence[Item]) -> list[Item]:
    """Return ``items`` that are not among ``others``, in their order."""
    if len(items) == len(others):
        return []
    known = {id(other) for other in others}
    return [item for item in items if id(item) not in known]
