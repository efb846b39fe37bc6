"""Which states follow which, and which came late."""

import pytest

from pillarbox.errors import ConfigurationError
from pillarbox.idempotency import StateMachine

LIFE = StateMachine.in_order(["placed", "paid", "shipped"])
ORDER = StateMachine(
    {
        "placed": ("paid", "cancelled"),
        "paid": ("packed", "refunded"),
        "packed": ("shipped", "paid"),
        "shipped": (),
        "refunded": (),
        "cancelled": (),
    }
)


@pytest.mark.parametrize(("to", "before"), [("placed", ()), ("paid", ("placed",)), ("shipped", ("placed", "paid"))])
def test_in_an_order_states_may_be_left_out(to: str, before: tuple[str, ...]) -> None:
    assert LIFE.before(to) == before


def test_in_an_order_what_is_behind_has_passed() -> None:
    assert [state for state in ("placed", "paid", "shipped") if LIFE.has_passed("paid", state)] == ["placed", "paid"]


@pytest.mark.parametrize(
    ("to", "before"),
    [("placed", ()), ("paid", ("placed", "packed")), ("shipped", ("packed",)), ("refunded", ("paid",))],
)
def test_a_state_follows_those_that_allow_it(to: str, before: tuple[str, ...]) -> None:
    assert ORDER.before(to) == before


@pytest.mark.parametrize(
    ("current", "passed"),
    [
        ("placed", ["placed"]),
        ("shipped", ["placed", "paid", "packed", "shipped"]),
        ("packed", ["placed", "paid", "packed"]),
        ("refunded", ["placed", "paid", "refunded"]),
        ("cancelled", ["placed", "cancelled"]),  # maybe it was paid before, maybe not: that is for a person to see
        ("lost", []),
        (None, []),
    ],
)
def test_a_state_has_passed_if_every_way_to_the_current_one_leads_through_it(
    current: object, passed: list[str]
) -> None:
    states = ["placed", "paid", "packed", "shipped", "refunded", "cancelled"]

    assert [state for state in states if ORDER.has_passed(current, state)] == passed


def test_a_circle_begins_with_its_first_state() -> None:
    light = StateMachine({"red": ["green"], "green": ["yellow"], "yellow": ["red"]})

    assert light.has_passed("yellow", "green")
    assert not light.has_passed("green", "yellow")
    assert light.before("red") == ("yellow",)


def test_a_state_may_follow_itself_without_a_way_there() -> None:
    assert StateMachine({"a": ["a", "b"], "b": []}).before("a") == ()


@pytest.mark.parametrize("states", [[], ["one"], ["a", "b", "a"], "ab"])
def test_an_order_of_fewer_than_two_states_or_with_one_twice_is_refused(states: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="two states or more"):
        StateMachine.in_order(states)


def test_states_that_are_not_declared_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="shiped may follow"):
        StateMachine({"paid": ["shiped"], "shipped": []})
    with pytest.raises(ConfigurationError, match="'returned' is none of the states placed, paid, shipped"):
        LIFE.before("returned")
