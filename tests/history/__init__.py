"""Histories of fault tests and their judge.

Guarantee: every loss, ghost, inversion, hole, double or missing effect in the records that it is given is reported.
Not promised: noticing what the test did not record.
"""

from __future__ import annotations

from tests.history.checker import DoubleEffect, Effect, Event, Hole, Inversion, Lost, Verdict, check

__all__ = ["DoubleEffect", "Effect", "Event", "Hole", "Inversion", "Lost", "Verdict", "check"]
