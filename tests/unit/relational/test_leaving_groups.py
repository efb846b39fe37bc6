"""In which order groups of dead letters are locked."""

from __future__ import annotations

from pillarbox.relational.dead_letter_groups import LEAVE, LOCK, left
from pillarbox.transaction import Execute, step


def test_the_groups_that_letters_leave_are_given_in_sorted_order_and_locked_before_they_are_counted() -> None:
    leaving = [("shop/b", "f2"), ("shop/a", "f9"), ("shop/b", "f1"), ("shop/b", "f2")]
    rows = [
        {"consumer": "shop/a", "fingerprint": "f9", "gone": 1},
        {"consumer": "shop/b", "fingerprint": "f1", "gone": 1},
        {"consumer": "shop/b", "fingerprint": "f2", "gone": 2},
    ]
    program = left(leaving)

    assert step(program) == Execute(LOCK, {"leaving": rows})
    assert step(program, ()) == Execute(LEAVE, {"leaving": rows})
