"""The places of acts, each of its own since undoing goes backwards through them, and why something was given up."""

from __future__ import annotations

from pillarbox.saga.happening import Moment, Refused, Skipped, Succeeded
from pillarbox.saga.journal import ActState, Direction, Journal, Progress
from pillarbox.saga.machine import observe
from pillarbox.saga.shape import UNSHAPED

NOW = Moment(now_us=1_000_000)
DO = Direction.DO


def test_an_act_that_is_skipped_keeps_its_place_and_the_next_end_has_a_new_one() -> None:
    journal = Journal(secret="s")
    for what in (
        Refused(step="stock", direction=DO, attempt=1, error="sold out"),
        Succeeded(step="mail", direction=DO, attempt=1),
        Skipped(step="stock", reason="ordered from elsewhere"),
        Succeeded(step="close", direction=DO, attempt=1),
    ):
        journal = observe(UNSHAPED, journal, what, NOW)

    assert journal.do["stock"].state is ActState.SKIPPED
    assert {step: progress.place for step, progress in journal.do.items()} == {"stock": 1, "mail": 2, "close": 3}
    assert journal.places == 3


def test_why_it_was_given_up_is_no_failure_that_an_operator_has_seen_to() -> None:
    journal = Journal(
        do={
            "mail": Progress(state=ActState.SKIPPED, place=1, error="the printer is empty"),
            "ship": Progress(state=ActState.FAILED, place=2, error="no carrier"),
        }
    )
    undone = journal.with_progress("pay", Direction.UNDO, Progress(state=ActState.FAILED, place=3, error="closed"))

    assert (Journal().error, journal.error, undone.error) == ("", "no carrier", "closed")
