"""What to do with a slot and a checkpoint as they are found: a pure decision.

A slot that was dropped, or dropped and made anew by somebody, silently leaves out what was committed in between. So the
relay reads on only where slot and checkpoint fit together; everything else is a gap, told and healed from the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pillarbox.relay.log_reader import Checkpoint, GapReason, Outlook


@dataclass(frozen=True, slots=True)
class Resume:
    """Read on from the checkpoint, after what is left of a healing."""

    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Heal:
    """Make a new slot, publish what is in the table, then read on; ``gap`` is ``None`` when nothing can be missing."""

    gap: GapReason | None


Decision: TypeAlias = Resume | Heal


def decide(outlook: Outlook, checkpoint: Checkpoint | None, *, is_broken: bool, has_table: bool) -> Decision:
    """Return whether the log can be read on.

    Args:
        outlook: what was found.
        checkpoint: how far an earlier relay came.
        is_broken: reading failed in a way that trying again does not mend.
        has_table: every record has a row, so that healing loses nothing. Where there is none, a slot that a standby
            kept over a failover is read on: up to there both timelines are one log.
    """
    slot = outlook.slot
    if checkpoint is None:
        return Heal(None if slot is None else GapReason.NO_CHECKPOINT)
    if checkpoint.flushed_lsn is None:
        return Heal(None)  # told already: an earlier relay ended while it healed
    if checkpoint.system_id != outlook.system_id:
        return Heal(GapReason.OTHER_SYSTEM)
    if checkpoint.slot_name != outlook.slot_name:
        return Heal(GapReason.SLOT_RENAMED)
    if slot is None:
        return Heal(GapReason.SLOT_MISSING)
    if slot.is_lost:
        return Heal(GapReason.SLOT_LOST)
    if slot.confirmed_lsn > checkpoint.flushed_lsn:
        return Heal(GapReason.SLOT_RECREATED)
    if checkpoint.timeline != outlook.timeline and has_table:
        return Heal(GapReason.OTHER_TIMELINE)
    if not outlook.is_published:
        return Heal(GapReason.NOT_PUBLISHED)
    return Heal(GapReason.LOG_BROKEN) if is_broken else Resume(checkpoint)
