"""Lanes keep keys together, and runs change their size."""

import pytest

from pillarbox.ordering import ByKey, RunSize, Unordered, lane_of


def test_a_key_has_one_lane_the_same_in_every_process() -> None:
    assert [lane_of(key, 4) for key in ("k:o-1", "k:o-2", "m:1", "k:ключ")] == [0, 2, 2, 2]


@pytest.mark.parametrize("lanes", [1, 2, 4, 7])
def test_every_lane_is_used(lanes: int) -> None:
    assert {lane_of(f"k:{number}", lanes) for number in range(200)} == set(range(lanes))


def test_a_key_of_any_text_has_a_lane() -> None:
    assert 0 <= lane_of("\ud800 half a surrogate", 4) < 4


def test_trouble_halves_a_run_down_to_one() -> None:
    size = RunSize(largest=100)
    sizes: list[int] = []
    for _ in range(9):
        size.shrink()
        sizes.append(size.size)

    assert sizes == [50, 25, 12, 6, 3, 1, 1, 1, 1]


def test_success_doubles_a_run_up_to_the_largest() -> None:
    size = RunSize(largest=100)
    size.size = 12
    sizes: list[int] = []
    for _ in range(5):
        size.grow()
        sizes.append(size.size)

    assert sizes == [24, 48, 96, 100, 100]


def test_a_run_of_one_can_grow_again() -> None:
    size = RunSize(largest=4)
    size.shrink()
    size.shrink()
    size.shrink()
    size.grow()

    assert size.size == 2


def test_strategies_are_values() -> None:
    assert (ByKey(), Unordered()) == (ByKey(), Unordered())
    assert ByKey() != Unordered()
