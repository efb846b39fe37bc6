"""What a log tailing relay tells and keeps while it makes a slot anew, though answers are lost on the way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from pillarbox.errors import StoreUnavailableError
from pillarbox.observe import Event, LogGapFound
from pillarbox.relay.log_reader import Checkpoint, GapReason, NewSlot, Outlook, Slot
from pillarbox.relay.log_tailing import LogTailingFeed
from pillarbox.testing import VirtualClock
from pillarbox.transaction import Program
from pillarbox.transaction.program import Finished, step

SLOT = Slot(confirmed_lsn=100, is_lost=False)
SETTLED = Checkpoint(system_id="7", timeline=1, slot_name="ours", flushed_lsn=100)


class Database:
    """The slots of a database and the checkpoint in it; both outlive the feeds that are opened on it."""

    def __init__(self, *, checkpoint: Checkpoint, slots: Mapping[str, Slot]) -> None:
        self.checkpoint = checkpoint
        self.slots = dict(slots)
        self.told: list[Event] = []
        self.leaked: list[str] = []
        self.answers_to_lose = 0
        self.refusals_to_drop = 0

    def feed(self, *, slot_name: str = "ours", has_table: bool = True) -> LogTailingFeed:
        """Make a feed that reads the slot of this name."""
        return LogTailingFeed(
            reader=Log(self, slot_name),  # type: ignore[arg-type]  # the part of a reader that opening uses
            checkpoints=Checkpoints(self),  # type: ignore[arg-type]  # likewise
            keeper=SimpleNamespace(  # type: ignore[arg-type]  # likewise
                source=self, clock=VirtualClock(), terms=SimpleNamespace(scope="relay"), tokens={0: 1}
            ),
            observer=self,
            has_table=has_table,
        )

    def notice(self, event: Event, /) -> None:
        self.told.append(event)

    async def run_single(self, program: Program[Any]) -> Any:
        ended = step(program)
        assert isinstance(ended, Finished), "the checkpoints of this database are no rows"
        return ended.result

    def save(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.look_for_leaks()
        if self.answers_to_lose:
            self.answers_to_lose -= 1
            raise StoreUnavailableError(store="PostgreSQL", reason="the answer to a commit was lost")

    def look_for_leaks(self) -> None:
        """Note slots that nobody would drop if all relays ended now: the checkpoint does not name them."""
        self.leaked += [name for name in self.slots if name != self.checkpoint.slot_name]

    def drop(self, names: Collection[str]) -> None:
        """Drop these slots one after another; a slot that is read stays."""
        for name in names:
            if name in self.slots and self.refusals_to_drop:
                self.refusals_to_drop -= 1
                raise StoreUnavailableError(store="PostgreSQL", reason="the slot is active")
            self.slots.pop(name, None)


class Log:
    """The log as a feed sees it."""

    def __init__(self, database: Database, slot_name: str) -> None:
        self._database, self._slot_name = database, slot_name

    async def look(self) -> Outlook:
        slot = self._database.slots.get(self._slot_name)
        return Outlook(system_id="7", timeline=1, slot_name=self._slot_name, slot=slot, is_published=True)

    async def renew(
        self,
        *,
        instead_of: str | None,
        before: Callable[[], Awaitable[None]],
        meanwhile: Callable[[], Awaitable[None]],
    ) -> NewSlot:
        self._database.drop([name for name in (self._slot_name, instead_of) if name is not None])
        await before()
        self._database.slots[self._slot_name] = SLOT
        self._database.look_for_leaks()
        return NewSlot(starts_at=SLOT.confirmed_lsn, snapshot="7:7:")

    async def close(self) -> None:
        pass


class Checkpoints:
    """The checkpoint, written at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self) -> Program[Checkpoint | None]:
        yield from ()
        return self._database.checkpoint

    def save(self, scope: str, tokens: Sequence[int], checkpoint: Checkpoint) -> Program[bool]:
        yield from ()
        self._database.save(checkpoint)
        return True


async def test_a_gap_is_told_though_the_answer_to_the_first_write_after_it_was_lost() -> None:
    database = Database(checkpoint=SETTLED, slots={})
    database.answers_to_lose = 1

    with pytest.raises(StoreUnavailableError):
        await database.feed(has_table=False).open()
    await database.feed(has_table=False).open()

    assert LogGapFound(reason=GapReason.SLOT_MISSING.value, healed=False) in database.told


async def test_a_slot_of_another_name_that_was_read_when_it_should_go_is_dropped_later() -> None:
    database = Database(checkpoint=replace(SETTLED, slot_name="of old"), slots={"of old": SLOT})
    database.refusals_to_drop = 1

    with pytest.raises(StoreUnavailableError):
        await database.feed().open()
    await database.feed().open()

    assert list(database.slots) == ["ours"]
    assert database.leaked == []
