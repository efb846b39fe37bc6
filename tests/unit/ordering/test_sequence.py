"""What a number is, seen from a position: next, early or past; over epochs, too."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.message import Number
from pillarbox.ordering import Missing, Position
from pillarbox.ordering.sequence import UNBEGUN, advanced, count_released, missing_before, sort_line

OLD, NEW = 3, 4


def at(last: int, *, epoch: int = OLD, admitted: int = 0) -> Position:
    return Position(epoch=epoch, last=last, admitted=admitted)


def of(*numbers: int, epoch: int = OLD) -> list[tuple[Number, int]]:
    return [(Number(epoch, number), number) for number in numbers]


@pytest.mark.parametrize("order", list(permutations([4, 5, 6])))
def test_numbers_of_one_batch_are_put_into_their_order(order: tuple[int, ...]) -> None:
    found = sort_line(at(3), of(*order))

    assert (found.ready, found.early, found.past) == ([4, 5, 6], [], [])


def test_what_is_beyond_a_gap_is_early_and_what_is_behind_is_past() -> None:
    found = sort_line(at(3), of(8, 2, 4, 6, 3))

    assert (found.ready, found.early, found.past) == ([4], [6, 8], [2, 3])


def test_a_number_that_comes_twice_is_past_the_second_time() -> None:
    found = sort_line(at(3), [(Number(OLD, 4), 40), (Number(OLD, 4), 41), (Number(OLD, 5), 50)])

    assert (found.ready, found.past) == ([40, 50], [41])


def test_a_new_line_waits_for_1() -> None:
    assert sort_line(at(UNBEGUN), of(1, 2)).ready == [1, 2]
    assert sort_line(at(UNBEGUN), of(2, 3)).early == [2, 3]


def test_a_later_epoch_begins_at_1() -> None:
    found = sort_line(at(9), of(1, 2, epoch=NEW))

    assert found.ready == [1, 2]
    assert (found.position, found.ends_epoch) == (at(0, epoch=NEW), at(9))


def test_a_later_epoch_does_not_begin_in_its_midst() -> None:
    found = sort_line(at(9), of(2, epoch=NEW))

    assert (found.early, found.position, found.ends_epoch) == ([2], at(9), None)


@pytest.mark.parametrize(
    ("position", "others", "waiting"),
    [
        (at(9), of(11), None),
        (at(9), [], Number(OLD, 11)),
        (at(9), of(10), None),
        (at(9, admitted=10), [], None),
    ],
    ids=["one-of-the-batch-is-early", "one-waits-early", "one-is-handled-now", "one-is-under-way"],
)
def test_a_later_epoch_waits_for_what_is_outstanding_of_the_earlier_one(
    position: Position, others: list[tuple[Number, int]], waiting: Number | None
) -> None:
    found = sort_line(position, [*of(1, epoch=NEW), *others], waiting=waiting)

    assert 1 in found.early
    assert found.ends_epoch is None


def test_what_waits_of_the_later_epoch_itself_does_not_hold_it_up() -> None:
    assert sort_line(at(9), of(1, epoch=NEW), waiting=Number(NEW, 2)).ready == [1]


def test_an_earlier_epoch_is_past() -> None:
    assert sort_line(at(1, epoch=NEW), of(9, 10)).past == [9, 10]


def test_a_line_of_which_nothing_was_handled_takes_an_earlier_epoch() -> None:
    """The later one overtook it on the way."""
    found = sort_line(at(UNBEGUN, epoch=NEW), of(1))

    assert (found.ready, found.position) == ([1], at(UNBEGUN))


def test_a_position_moves_over_what_follows_without_a_gap() -> None:
    assert advanced(at(3), [Number(OLD, 5), Number(OLD, 4), Number(OLD, 7)]) == at(5)
    assert advanced(at(3), [Number(OLD, 2), Number(NEW, 4)]) == at(3)
    assert advanced(at(UNBEGUN), [Number(OLD, 1)]) == at(1)


@pytest.mark.parametrize(
    ("position", "early", "count"),
    [
        (at(3), [Number(OLD, 4), Number(OLD, 5), Number(OLD, 7)], 2),
        (at(3), [Number(OLD, 5)], 0),
        (at(3), [Number(OLD, 2), Number(OLD, 4), Number(OLD, 4)], 3),
        (at(3), [Number(OLD, 4), Number(NEW, 1)], 1),
        (at(3), [Number(NEW, 1), Number(NEW, 2)], 2),
        (at(3, admitted=4), [Number(NEW, 1)], 0),
        (at(3), [Number(NEW, 2)], 0),
    ],
)
def test_what_follows_may_go_on(position: Position, early: list[Number], count: int) -> None:
    assert count_released(position, early) == count


def test_what_is_missing_is_told() -> None:
    assert missing_before(at(3), Number(OLD, 6)) == Missing(first=Number(OLD, 4), last=5)
    assert missing_before(at(3), Number(OLD, 4)) is None
    assert missing_before(at(3), Number(NEW, 3)) == Missing(first=Number(NEW, 1), last=2)
    assert missing_before(at(3), Number(NEW, 1)) is None
    assert missing_before(at(UNBEGUN), Number(OLD, 3)) == Missing(first=Number(OLD, 1), last=2)


@given(st.lists(st.integers(1, 12), min_size=1), st.integers(0, 12))
def test_nothing_is_lost_and_what_is_ready_has_no_gap(numbers: list[int], last: int) -> None:
    found = sort_line(at(last), of(*numbers))

    assert sorted([*found.ready, *found.early, *found.past]) == sorted(numbers)
    assert found.ready == list(range(last + 1, last + 1 + len(found.ready)))
    assert all(number > last + len(found.ready) + 1 for number in found.early)
