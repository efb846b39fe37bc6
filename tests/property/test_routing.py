"""What is told of conditions without a message holds for every message; patterns match as the standard's do."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.errors import ConditionError, ConfigurationError, UnmatchedMessageError
from pillarbox.message import Message
from pillarbox.routing import ContentBasedRouter, RoutedMessage, condition_of
from pillarbox.routing.pattern import Pattern
from pillarbox.routing.reach import implies, is_always, is_never
from pillarbox.routing.view import reader_of

READER = reader_of()

scalars = st.sampled_from([None, True, False, 0, 1, 1.0, 2, 2.5, "", "a", "ab", "b", "1"])


def conditions_on(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return conditions, as data, on the fields ``names``."""

    def comparing(operators: list[str], values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries(
            {"field": st.sampled_from(names), "operator": st.sampled_from(operators), "value": values}
        )

    comparisons = st.one_of(
        comparing(["eq", "ne"], scalars),
        comparing(["lt", "le", "gt", "ge"], st.sampled_from([0, 1, 1.0, 2, "a", "b"])),
        comparing(["in", "not_in"], st.lists(scalars, min_size=1, max_size=3)),
        comparing(["starts_with", "ends_with", "contains"], st.sampled_from(["", "a", "ab", "b"])),
        comparing(["exists"], st.booleans()),
    )
    return st.recursive(
        comparisons,
        lambda inner: st.one_of(
            st.fixed_dictionaries({"all": st.lists(inner, max_size=3)}),
            st.fixed_dictionaries({"any": st.lists(inner, min_size=1, max_size=3)}),
            st.fixed_dictionaries({"not": inner}),
        ),
        max_leaves=4,
    )


conditions = conditions_on("body.x", "body.y")
bodies = st.dictionaries(st.sampled_from(["x", "y"]), scalars | st.lists(scalars, max_size=2))


def view(body: object) -> RoutedMessage:
    message = Message(
        id="m1",
        type="order.placed",
        destination="topic:order",
        key="k",
        content_type="application/json",
        headers={},
        body=json.dumps(body).encode(),
    )
    return READER.view(message)


def judged(said: dict[str, Any], body: object) -> bool | None:
    try:
        return condition_of(said).holds(view(body))
    except TypeError:
        return None


@given(one=conditions_on("body.x"), other=conditions_on("body.x"), body=bodies)
@settings(max_examples=2 * settings.default.max_examples)
def test_an_implied_condition_holds_wherever_the_other_does(
    one: dict[str, Any], other: dict[str, Any], body: object
) -> None:
    if implies(condition_of(one), condition_of(other)) and judged(one, body) is True:
        assert judged(other, body) is not False  # one that cannot be judged keeps the message from later rules, too


@given(said=conditions, body=bodies)
@settings(max_examples=2 * settings.default.max_examples)
def test_what_never_holds_holds_for_no_body_and_what_always_holds_for_each(said: dict[str, Any], body: object) -> None:
    if is_never(condition_of(said)):
        assert judged(said, body) is not True
    if is_always(condition_of(said)):
        assert judged(said, body) is not False


@given(rules=st.lists(conditions, max_size=4), body=bodies, match=st.sampled_from(["first", "all"]))
def test_the_rules_that_an_explanation_names_are_those_that_decide(
    rules: list[dict[str, Any]], body: object, match: str
) -> None:
    router = ContentBasedRouter("orders", match=match)  # type: ignore[arg-type]
    for number, rule in enumerate(rules):
        router.when(rule, to=f"q{number}")

    told = router.explain(view(body))

    assert tuple(rule.to for rule in told.rules if rule.decides) == told.destinations
    if told.outcome == "dead":
        with pytest.raises((ConditionError, UnmatchedMessageError)) as refused:
            router.decide(view(body))
        assert told.reason == str(refused.value)
    else:
        assert (told.outcome, told.destinations) == ("routed", router.decide(view(body)).destinations)


@given(rules=st.lists(conditions, max_size=5), body=bodies)
def test_a_rule_that_is_reported_as_unreachable_never_decides(rules: list[dict[str, Any]], body: object) -> None:
    router = ContentBasedRouter("orders", default="rest")
    for number, rule in enumerate(rules):
        router.when(rule, to=f"q{number}")
    unreachable = {problem.rule for problem in router.problems()}  # type: ignore[attr-defined]

    decided = {rule.rule for rule in router.explain(view(body)).rules if rule.decides}

    assert not decided & unreachable


letters = st.sampled_from("ab.|()[]*+?{}^$\\-d1,2wsn ")
patterns = st.text(letters, max_size=12)
texts = st.text(st.sampled_from("ab12 -_.\n|"), max_size=8)


@given(pattern=patterns, text=texts)
@settings(max_examples=4 * settings.default.max_examples)
def test_a_pattern_that_is_taken_matches_as_a_regular_expression_does(pattern: str, text: str) -> None:
    try:
        compiled = Pattern(pattern)
    except ConfigurationError:
        return

    assert compiled.matches(text) is (re.fullmatch(pattern, text) is not None)


built = st.recursive(
    st.sampled_from(["a", "b", "1", ".", "\\d", "\\w", "\\s", "[ab]", "[^a]", "[a-b1]", "\\.", "-"]),
    lambda inner: st.one_of(
        st.builds("({})*".format, inner),
        st.builds("({})+".format, inner),
        st.builds("({})?".format, inner),
        st.builds("({}){{1,2}}".format, inner),
        st.builds("({}){{2}}".format, inner),
        st.builds("({}){{1,}}".format, inner),
        st.builds("{}{}".format, inner, inner),
        st.builds("({}|{})".format, inner, inner),
    ),
    max_leaves=6,
)


@given(pattern=built, text=texts)
@settings(max_examples=2 * settings.default.max_examples)
def test_every_way_to_write_a_pattern_means_what_it_does_elsewhere(pattern: str, text: str) -> None:
    assert Pattern(pattern).matches(text) is (re.fullmatch(pattern, text) is not None)


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(.*)*x", "a?" * 40 + "b", "(a*)*(a*)*b"])
def test_no_pattern_takes_longer_than_its_text_is_long(pattern: str) -> None:
    assert not Pattern(pattern).matches("a" * 500)
