"""Decisions about causes: who waits, what becomes of it, what comes first, and what goes round in a circle."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox import Causal
from pillarbox.errors import ConfigurationError
from pillarbox.ordering.causes import FIRST_LOOK, GoToTheDead, Pass, Place, Wait, arranged, decide, is_circular

SECOND = timedelta(seconds=1)
PATIENT = Causal(wait=60 * SECOND)


@pytest.mark.parametrize(
    ("waited", "after"), [(0, 0.25), (0.1, 0.25), (1, 1), (20, 20), (45, 15), (59.9, 0.1)], ids=str
)
def test_what_waits_is_looked_at_again_less_and_less_often_but_when_its_time_is_over(
    waited: float, after: float
) -> None:
    decision = decide(PATIENT, waited=waited * SECOND, is_dead=False, in_circle=False)

    assert decision == Wait(after=after * SECOND)


@pytest.mark.parametrize("trouble", ["missing", "dead", "cycle"])
def test_in_trouble_the_consumer_s_word_decides(trouble: str) -> None:
    facts = {"waited": 60 * SECOND, "is_dead": trouble == "dead", "in_circle": trouble == "cycle"}

    held = decide(Causal(wait=60 * SECOND), **facts)  # type: ignore[arg-type]  # typed as they are
    run = decide(Causal(wait=60 * SECOND, when_missing="run"), **facts)  # type: ignore[arg-type]  # as above
    dead = decide(Causal(wait=60 * SECOND, when_missing="dead"), **facts)  # type: ignore[arg-type]  # as above

    assert held == Wait(after=30 * SECOND, trouble=trouble)  # type: ignore[arg-type]  # one of the three
    assert run == Pass(trouble=trouble)  # type: ignore[arg-type]  # one of the three
    assert dead == GoToTheDead(trouble=trouble)  # type: ignore[arg-type]  # one of the three


def test_a_dead_cause_and_a_circle_are_trouble_at_once() -> None:
    assert decide(PATIENT, waited=0 * SECOND, is_dead=True, in_circle=False) == Wait(FIRST_LOOK, "dead")
    assert decide(PATIENT, waited=0 * SECOND, is_dead=True, in_circle=True) == Wait(FIRST_LOOK, "cycle")


def test_what_could_not_be_kept_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Causal\.wait must be a timedelta above zero"):
        Causal(wait=timedelta(0))
    with pytest.raises(ConfigurationError, match="max_causes"):
        Causal(max_causes=0)


graphs = st.lists(st.sets(st.integers(0, 19), max_size=3), min_size=20, max_size=20).map(
    lambda needs: {item: sorted(needed) for item, needed in enumerate(needs)}
)


@given(graphs, st.permutations(range(20)))
def test_arranging_loses_nothing_and_keeps_what_needs_nothing(needs: dict[int, list[int]], items: list[int]) -> None:
    assert sorted(arranged(items, needs)) == list(range(20))
    assert arranged(items, {}) == items


@given(graphs, st.permutations(range(20)))
def test_without_circles_everything_comes_after_what_it_needs(needs: dict[int, list[int]], items: list[int]) -> None:
    earlier = {item: [one for one in needed if one < item] for item, needed in needs.items()}

    at = {item: place for place, item in enumerate(arranged(items, earlier))}

    assert all(at[one] < at[item] for item, needed in earlier.items() for one in needed)


def test_a_long_chain_is_arranged() -> None:
    chain = {number: [number + 1] for number in range(5_000)}

    assert arranged(list(range(5_001)), chain) == list(range(5_000, -1, -1))


def place(*needs: str, hold_key: str = "k:1", at: int = 0) -> Place:
    return Place(hold_key=hold_key, at=(2, at), needs=frozenset(needs))


def test_what_waits_for_itself_by_causes_is_in_a_circle() -> None:
    places = {"b": place("c", hold_key="k:2"), "c": place("a", hold_key="k:3")}

    assert is_circular("a", ["a"], {})
    assert is_circular("a", ["b"], places)
    assert not is_circular("x", ["b"], {**places, "a": place("y", hold_key="k:4")})


def test_what_waits_for_something_behind_itself_is_in_a_circle() -> None:
    places = {"a": place("b", at=5), "b": place("c", hold_key="k:2"), "c": place(at=6)}

    assert is_circular("a", ["b"], places)
    assert not is_circular("a", ["b"], {**places, "c": place(at=4)})
    assert not is_circular("new", ["b"], places)
