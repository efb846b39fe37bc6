from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from pillarbox.relay.log_decision import Heal, Resume, decide
from pillarbox.relay.log_reader import Checkpoint, GapReason, Outlook, Slot

SLOT = Slot(confirmed_lsn=100, is_lost=False)
OUTLOOK = Outlook(system_id="7", timeline=1, slot_name="ours", slot=SLOT, is_published=True)
CHECKPOINT = Checkpoint(system_id="7", timeline=1, slot_name="ours", flushed_lsn=100)


@pytest.mark.parametrize(
    ("outlook", "checkpoint", "gap"),
    [
        (OUTLOOK, None, GapReason.NO_CHECKPOINT),
        (OUTLOOK, replace(CHECKPOINT, system_id="8"), GapReason.OTHER_SYSTEM),
        (OUTLOOK, replace(CHECKPOINT, slot_name="of old"), GapReason.SLOT_RENAMED),
        (replace(OUTLOOK, slot=None), CHECKPOINT, GapReason.SLOT_MISSING),
        (replace(OUTLOOK, slot=Slot(confirmed_lsn=100, is_lost=True)), CHECKPOINT, GapReason.SLOT_LOST),
        (replace(OUTLOOK, slot=Slot(confirmed_lsn=101, is_lost=False)), CHECKPOINT, GapReason.SLOT_RECREATED),
        (replace(OUTLOOK, timeline=2), CHECKPOINT, GapReason.OTHER_TIMELINE),
        (replace(OUTLOOK, is_published=False), CHECKPOINT, GapReason.NOT_PUBLISHED),
    ],
)
def test_whatever_does_not_fit_together_is_a_gap(
    outlook: Outlook, checkpoint: Checkpoint | None, gap: GapReason
) -> None:
    assert decide(outlook, checkpoint, is_broken=False, has_table=True) == Heal(gap)


def test_a_slot_at_or_before_the_checkpoint_is_read_on() -> None:
    for confirmed in (0, 99, 100):
        outlook = replace(OUTLOOK, slot=Slot(confirmed_lsn=confirmed, is_lost=False))

        assert decide(outlook, CHECKPOINT, is_broken=False, has_table=True) == Resume(CHECKPOINT)


def test_the_first_start_is_no_gap() -> None:
    assert decide(replace(OUTLOOK, slot=None), None, is_broken=False, has_table=True) == Heal(None)


def test_a_healing_that_was_interrupted_is_not_told_again() -> None:
    begun = replace(CHECKPOINT, flushed_lsn=None)

    for slot in (None, SLOT, Slot(confirmed_lsn=10**9, is_lost=True)):
        assert decide(replace(OUTLOOK, slot=slot), begun, is_broken=False, has_table=True) == Heal(None)


def test_a_log_that_broke_is_a_gap_though_all_looks_well() -> None:
    assert decide(OUTLOOK, CHECKPOINT, is_broken=True, has_table=True) == Heal(GapReason.LOG_BROKEN)


def test_without_a_table_a_slot_that_outlived_a_failover_is_read_on() -> None:
    outlook = replace(OUTLOOK, timeline=2)

    assert decide(outlook, CHECKPOINT, is_broken=False, has_table=False) == Resume(CHECKPOINT)


def test_reading_on_is_decided_only_where_nothing_can_be_missing() -> None:
    slots = [None, *(Slot(confirmed_lsn=lsn, is_lost=lost) for lsn, lost in product((99, 100, 101), (False, True)))]
    checkpoints = [
        None,
        *(
            replace(CHECKPOINT, system_id=system, timeline=timeline, slot_name=name, flushed_lsn=flushed)
            for system, timeline, name, flushed in product(("7", "8"), (1, 2), ("ours", "of old"), (None, 100))
        ),
    ]
    for slot, checkpoint, published, broken, table in product(
        slots, checkpoints, (True, False), (True, False), (True, False)
    ):
        outlook = replace(OUTLOOK, slot=slot, is_published=published)
        if not isinstance(decide(outlook, checkpoint, is_broken=broken, has_table=table), Resume):
            continue

        assert published
        assert not broken
        assert slot is not None
        assert not slot.is_lost
        assert checkpoint is not None
        assert checkpoint.flushed_lsn is not None
        assert slot.confirmed_lsn <= checkpoint.flushed_lsn
        assert (checkpoint.system_id, checkpoint.slot_name) == ("7", "ours")
        assert checkpoint.timeline == 1 or not table
