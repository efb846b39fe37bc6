"""The four kinds of routes: where a message goes, why, and what is wrong with a route before anything is sent."""

from __future__ import annotations

from typing import Any

import pytest

from pillarbox.errors import (
    ConditionError,
    ConfigurationError,
    PermanentError,
    UnmatchedMessageError,
    UnreachableRuleError,
)
from pillarbox.routing import ContentBasedRouter, MessageFilter, RecipientList, Route, RoutedMessage, WireTap
from tests.unit.routing.messages import ChargePayment, OrderPlaced, OrderShipped, message, view

EXPRESS = {"field": "body.priority", "operator": "eq", "value": "EXPRESS"}
LARGE = {"field": "body.total", "operator": "gt", "value": 10_000}
ALWAYS: dict[str, Any] = {"all": []}


def fails(_: RoutedMessage) -> bool:
    raise KeyError("priority")


def goes(route: Route, body: object) -> tuple[str, ...]:
    return route.decide(view(body)).destinations


def reasons(route: Route) -> list[str]:
    return [problem.reason for problem in route.problems() if isinstance(problem, UnreachableRuleError)]


# --- where a route takes its messages from ---


def test_a_route_takes_messages_from_the_queue_of_its_name_unless_another_source_is_named() -> None:
    assert ContentBasedRouter("orders").source == ("queue:orders",)
    assert ContentBasedRouter("orders", source="topic:order").source == ("topic:order",)
    assert ContentBasedRouter("orders", source=OrderPlaced).source == ("topic:order",)
    assert ContentBasedRouter("orders", source=[OrderPlaced, OrderShipped, ChargePayment]).source == (
        "topic:order",
        "queue:payments",
    )


@pytest.mark.parametrize("source", ["topic:", "exchange:orders", "Orders", [], ["topic:order", OrderPlaced], int])
def test_a_source_that_names_no_channel_is_refused(source: Any) -> None:
    with pytest.raises(ConfigurationError):
        ContentBasedRouter("orders", source=source)


def test_a_route_of_classes_leaves_the_rest_of_a_topic_alone_and_takes_all_of_a_queue() -> None:
    order = message({})

    assert ContentBasedRouter("orders", source=OrderPlaced).takes(order)
    assert not ContentBasedRouter("orders", source=OrderShipped).takes(order)
    assert not ContentBasedRouter("orders", source="topic:payment").takes(order)
    assert ContentBasedRouter("charges", source=ChargePayment).takes(message({}, channel="queue:payments"))


@pytest.mark.parametrize("name", ["Orders", "", "a b", "shop/orders"])
def test_a_route_has_a_name_that_its_identity_can_hold(name: str) -> None:
    with pytest.raises(ConfigurationError, match="name of a route"):
        ContentBasedRouter(name)


# --- content-based router ---


def test_the_first_rule_that_matches_decides() -> None:
    router = ContentBasedRouter("orders", default="rest").when(EXPRESS, to="express").when(LARGE, to="topic:large")

    assert goes(router, {"priority": "EXPRESS", "total": 20_000}) == ("queue:express",)
    assert goes(router, {"priority": "STANDARD", "total": 20_000}) == ("topic:large",)
    assert goes(router, {"priority": "STANDARD", "total": 1}) == ("queue:rest",)


def test_all_rules_that_match_decide_and_a_channel_that_two_name_gets_one_copy() -> None:
    router = ContentBasedRouter("orders", match="all").when(EXPRESS, to="express").when(LARGE, to="large")
    router.when({"field": "body.gift", "operator": "eq", "value": True}, to="express")

    assert goes(router, {"priority": "EXPRESS", "total": 20_000, "gift": True}) == ("queue:express", "queue:large")


def test_what_no_rule_matches_and_no_default_takes_is_an_error_and_not_dropped() -> None:
    router = ContentBasedRouter("orders").when(EXPRESS, to="express")

    with pytest.raises(UnmatchedMessageError, match="no rule of 'orders'") as refused:
        goes(router, {"priority": "STANDARD"})

    assert isinstance(refused.value, PermanentError)


@pytest.mark.parametrize("match", ["first", "all"])
def test_a_condition_that_fails_is_an_error_that_names_its_rule(match: Any) -> None:
    router = ContentBasedRouter("orders", default="rest", match=match).when(EXPRESS, to="express")
    router.when(fails, to="other", name="broken")

    with pytest.raises(ConditionError, match="'broken' of 'orders' failed: KeyError: 'priority'"):
        goes(router, {"priority": "STANDARD"})


def test_where_the_first_match_decides_a_later_condition_is_not_asked() -> None:
    router = ContentBasedRouter("orders").when(EXPRESS, to="express").when(fails, to="other")

    assert goes(router, {"priority": "EXPRESS"}) == ("queue:express",)


def test_a_value_of_another_kind_is_an_error_that_does_not_show_it() -> None:
    router = ContentBasedRouter("orders", default="rest").when(LARGE, to="large")

    with pytest.raises(ConditionError, match="kind text where the rule compares with number") as refused:
        goes(router, {"total": "a secret"})

    assert "secret" not in str(refused.value)


def test_rules_live_in_configuration() -> None:
    rules = [{"when": EXPRESS, "to": "express", "name": "fast"}, {"when": LARGE, "to": "queue:large"}]

    router = ContentBasedRouter("orders").with_rules(rules)

    assert goes(router, {"priority": "EXPRESS"}) == ("queue:express",)
    assert [rule.rule for rule in router.explain(message({"total": 1})).rules] == ["fast", "rule-2"]


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ({"when": EXPRESS}, "no rule"),
        ({"to": "express"}, "no rule"),
        ("when: always", "no rule"),
        ({"when": EXPRESS, "to": "express", "name": 7}, "no rule"),
        ({"when": EXPRESS, "to": ["express"]}, "no rule"),
        ({"when": EXPRESS, "to": "express", "otherwise": "x"}, "no rule"),
        ({"when": "priority == EXPRESS", "to": "express"}, "no rule"),
        ({"when": EXPRESS, "to": "Express"}, "'rule-1' of 'orders'.*'Express'"),
        ({"when": {"field": "body.x", "operator": "is", "value": 1}, "to": "x"}, "'rule-1' of 'orders'.*operator 'is'"),
    ],
)
def test_a_rule_in_configuration_that_is_not_as_it_should_be_is_refused(rule: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        ContentBasedRouter("orders").with_rules([rule])


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two rules 'fast'"):
        ContentBasedRouter("orders").when(EXPRESS, to="a", name="fast").when(LARGE, to="b", name="fast")


def test_another_way_to_match_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'first' or 'all'"):
        ContentBasedRouter("orders", match="best")  # type: ignore[arg-type]


def test_a_router_without_rules_and_default_is_a_problem() -> None:
    (problem,) = ContentBasedRouter("orders").problems()

    assert "no rules" in str(problem)


def test_a_route_to_where_it_receives_from_is_a_problem() -> None:
    (problem,) = ContentBasedRouter("orders", default="orders").problems()

    assert "'queue:orders', which it receives from" in str(problem)


@pytest.mark.parametrize(
    ("rules", "unreachable"),
    [
        ([ALWAYS, EXPRESS], "rule 'rule-1' before it always holds"),
        ([EXPRESS, EXPRESS], "rule 'rule-1' before it holds for the same messages"),
        ([EXPRESS, LARGE, {"all": [LARGE, EXPRESS]}], "rule 'rule-1' before it holds"),
        ([{**EXPRESS, "operator": "in", "value": ["EXPRESS", "SLOW"]}, EXPRESS], "before it holds"),
        ([LARGE, {**LARGE, "value": 20_000}], "before it holds"),
        ([{"field": "body.total", "operator": "exists"}, LARGE], "before it holds"),
        ([fails, fails], "before it holds"),
        ([{"any": [EXPRESS, LARGE]}, EXPRESS], "before it holds"),
        (
            [LARGE, {"any": [{**LARGE, "value": 20_000}, {**LARGE, "operator": "ge", "value": 30_000}]}],
            "before it holds",
        ),
        ([{"not": EXPRESS}, {"not": EXPRESS}], "before it holds"),
        ([{"any": [EXPRESS, LARGE]}, {"any": [EXPRESS, LARGE]}], "before it holds"),
        ([{**LARGE, "operator": "le"}, {**LARGE, "operator": "lt"}], "before it holds"),
        (
            [{**EXPRESS, "operator": "starts_with", "value": "EX"}, {**EXPRESS, "operator": "starts_with"}],
            "before it holds",
        ),
        (
            [{**EXPRESS, "operator": "in", "value": [1, 2]}, {**EXPRESS, "operator": "in", "value": [2, 1.0]}],
            "before it",
        ),
        ([{"any": [{"not": ALWAYS}, {"all": [{"not": ALWAYS}, EXPRESS]}]}], "contradicts itself"),
        ([{"not": {"not": ALWAYS}}, LARGE], "always holds"),
        ([{"any": [EXPRESS, {"not": EXPRESS}]}, LARGE], "always holds"),
        ([{"all": [EXPRESS, {**EXPRESS, "value": "STANDARD"}]}], "contradicts itself"),
        ([{"all": [EXPRESS, {"all": [{**EXPRESS, "operator": "ne"}]}]}], "contradicts itself"),
        ([{"all": [LARGE, {"field": "body.total", "operator": "lt", "value": 5}]}], "contradicts itself"),
        ([{"all": [LARGE, {"not": LARGE}]}], "contradicts itself"),
        ([{"all": [EXPRESS, {"field": "body.priority", "operator": "exists", "value": False}]}], "contradicts itself"),
        (
            [{"all": [{**EXPRESS, "operator": "starts_with"}, {**EXPRESS, "operator": "starts_with", "value": "ST"}]}],
            "contradicts itself",
        ),
        ([{"all": [{**LARGE, "operator": "ge"}, {**LARGE, "operator": "lt"}]}], "contradicts itself"),
    ],
)
def test_a_rule_that_can_never_decide_is_a_problem(rules: list[Any], unreachable: str) -> None:
    router = ContentBasedRouter("orders", default="rest")
    for number, rule in enumerate(rules):
        router.when(rule, to=f"q{number}")

    (reason,) = reasons(router)

    assert unreachable in reason


@pytest.mark.parametrize(
    "rules",
    [
        [EXPRESS, LARGE],
        [LARGE, {**LARGE, "value": 5}],
        [{"all": [EXPRESS, LARGE]}, EXPRESS],
        [{"field": "body.x", "operator": "eq", "value": 1}, {"field": "body.x", "operator": "eq", "value": True}],
        [{"field": "body.x", "operator": "gt", "value": 1}, {"field": "body.x", "operator": "ge", "value": 1}],
        [EXPRESS, ALWAYS],
        [{**EXPRESS, "operator": "starts_with"}, {**EXPRESS, "operator": "starts_with", "value": "EX"}],
        [LARGE, {**LARGE, "value": "20000"}],
        [{**LARGE, "operator": "lt"}, {**LARGE, "operator": "le"}],
        [LARGE, {**LARGE, "field": "body.weight"}],
        [fails, lambda m: True],
        [{"all": [{**LARGE, "operator": "ge"}, {**LARGE, "operator": "le"}]}],
    ],
)
def test_rules_that_can_decide_are_no_problem(rules: list[Any]) -> None:
    router = ContentBasedRouter("orders")
    for number, rule in enumerate(rules):
        router.when(rule, to=f"q{number}")

    assert router.problems() == []


def test_where_all_rules_decide_only_those_to_the_same_channel_make_each_other_needless() -> None:
    router = ContentBasedRouter("orders", match="all").when(ALWAYS, to="audit").when(EXPRESS, to="express")
    assert router.problems() == []

    router.when(LARGE, to="audit")
    assert reasons(router) == ["rule 'rule-1' before it always holds"]


# --- recipient list ---


def test_every_recipient_gets_a_copy() -> None:
    assert goes(RecipientList("copies", "billing", "topic:audit"), {}) == ("queue:billing", "topic:audit")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("sms", ("queue:sms",)),
        (["sms", "email", "sms", "queue:sms"], ("queue:email", "queue:sms")),
        ([], ("queue:nobody",)),
        (None, ("queue:nobody",)),
    ],
)
def test_recipients_are_chosen_by_a_field_and_each_gets_one_copy(names: object, expected: tuple[str, ...]) -> None:
    recipients = RecipientList("notify", "email", "sms", chosen_by="body.to", default="nobody")

    assert goes(recipients, {"to": names}) == expected
    assert goes(recipients, {}) == ("queue:nobody",)


def test_recipients_are_chosen_by_a_function() -> None:
    recipients = RecipientList("notify", "email", "sms", chosen_by=lambda m: {"sms"} if m.body["urgent"] else set())

    assert goes(recipients, {"urgent": True}) == ("queue:sms",)
    with pytest.raises(UnmatchedMessageError):
        goes(recipients, {"urgent": False})


@pytest.mark.parametrize(
    "names", ["payments", ["email", "queue:payments"], "topic:email", "a b", 7, {"x": 1}, [["email"]]]
)
def test_a_message_cannot_name_a_channel_of_its_own(names: object) -> None:
    with pytest.raises(ConditionError, match="chosen_by"):
        goes(RecipientList("notify", "email", "x", chosen_by="body.to"), {"to": names})


def test_a_recipient_list_without_recipients_or_with_one_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs recipients"):
        RecipientList("copies")
    with pytest.raises(ConfigurationError, match="named twice"):
        RecipientList("copies", "billing", "queue:billing")


def test_how_recipients_are_chosen_is_checked_beforehand() -> None:
    async def later(_: RoutedMessage) -> list[str]:
        return ["email"]

    with pytest.raises(ConfigurationError, match="plain function"):
        RecipientList("notify", "email", chosen_by=later)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="names no field"):
        RecipientList("notify", "email", chosen_by="to")
    assert "which it receives from" in str(RecipientList("notify", "email", default="notify").problems())


def test_an_explanation_says_why_nobody_can_be_chosen() -> None:
    told = RecipientList("notify", "email", chosen_by="body.to").explain(message({"to": 7}))

    assert [(rule.matched, rule.decides) for rule in told.rules] == [(None, False)]
    assert told.outcome == "dead"
    assert RecipientList("copies", "email").explain(message({})).rules[0].why == "everybody gets it"


def test_an_explanation_says_who_is_chosen() -> None:
    told = RecipientList("notify", "email", "sms", chosen_by="body.to").explain(message({"to": ["sms"]}))

    assert [(rule.to, rule.matched, rule.why) for rule in told.rules] == [
        ("queue:email", False, "body.to does not name it"),
        ("queue:sms", True, "body.to names it"),
    ]
    assert told.destinations == ("queue:sms",)


# --- filter ---


def test_a_filter_lets_pass_what_its_condition_holds_for() -> None:
    filter_ = MessageFilter("large-only", keep=LARGE, to="large")

    assert goes(filter_, {"total": 20_000}) == ("queue:large",)
    assert goes(filter_, {"total": 1}) == ()
    assert filter_.explain(message({"total": 1})).outcome == "discarded"


def test_a_filter_can_keep_what_does_not_pass() -> None:
    assert goes(MessageFilter("large-only", keep=LARGE, to="large", discard_to="small"), {"total": 1}) == (
        "queue:small",
    )


def test_a_filter_with_a_condition_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="large-only"):
        MessageFilter("large-only", keep={"field": "total", "operator": "gt", "value": 1}, to="large")
    assert MessageFilter("large-only", keep=LARGE, to="a", discard_to="b").outputs == ("queue:a", "queue:b")


def test_a_filter_whose_condition_fails_discards_nothing() -> None:
    with pytest.raises(ConditionError, match="'keep' of 'large-only'"):
        goes(MessageFilter("large-only", keep=LARGE, to="large"), {"total": "1"})


@pytest.mark.parametrize("condition", [ALWAYS, {"not": ALWAYS}])
def test_a_filter_that_filters_nothing_or_everything_is_a_problem(condition: Any) -> None:
    assert len(MessageFilter("none", keep=condition, to="x").problems()) == 1


# --- tap ---


def test_a_tap_on_a_topic_sends_a_copy_and_leaves_the_rest_alone() -> None:
    decision = WireTap("tap", source="topic:order", to="audit").decide(view({}))

    assert (decision.destinations, decision.tapped) == ((), ("queue:audit",))
    assert WireTap("tap", source="topic:order", to="audit").problems() == []


def test_a_tap_in_a_queue_sends_the_message_on() -> None:
    tap = WireTap("tap", source=ChargePayment, to="topic:audit", then="payments.tapped")

    assert tap.decide(view({})).destinations == ("queue:payments.tapped",)
    assert tap.explain(message({})).destinations == ("queue:payments.tapped", "topic:audit")
    assert tap.problems() == []


@pytest.mark.parametrize(
    ("tap", "complaint"),
    [
        (WireTap("tap", source=ChargePayment, to="audit"), "would take them away"),
        (WireTap("tap", source="topic:order", to="audit", then="orders"), "come twice"),
        (WireTap("tap", source="queue:orders", to="audit", then="audit"), "same channel"),
        (WireTap("tap", source="queue:orders", to="orders", then="x"), "which it receives from"),
    ],
)
def test_a_tap_that_would_disturb_the_line_is_a_problem(tap: WireTap, complaint: str) -> None:
    (problem,) = tap.problems()

    assert complaint in str(problem)


# --- explanations ---


def test_an_object_is_explained_as_it_would_be_published() -> None:
    router = ContentBasedRouter("orders", source=OrderPlaced).when(
        lambda m: m.payload.priority == "EXPRESS", to="express"
    )

    assert router.explain(OrderPlaced("o-1", priority="EXPRESS")).destinations == ("queue:express",)
    assert router.explain(message({"order_id": "o-1", "priority": "EXPRESS"})).destinations == ("queue:express",)


def test_an_explanation_tells_of_every_rule_and_which_decides() -> None:
    router = ContentBasedRouter("orders").when(EXPRESS, to="express", name="fast").when(LARGE, to="large")
    router.when(fails, to="other").when(ALWAYS, to="rest")

    assert str(router.explain(message({"priority": "EXPRESS", "total": 20_000}))) == (
        "orders: order.placed 0192f0c1-2345-7abc-8def-0123456789ab is routed: queue:express\n"
        "  > fast -> queue:express: yes, body.priority is 'EXPRESS'; wanted: eq 'EXPRESS'\n"
        "    rule-2 -> queue:large: yes, body.total is 20000; wanted: gt 10000\n"
        "    rule-3 -> queue:other: failed, KeyError: 'priority'\n"
        "    rule-4 -> queue:rest: yes, it always holds"
    )


@pytest.mark.parametrize(
    ("body", "default", "outcome", "destinations"),
    [
        ({"priority": "EXPRESS"}, None, "routed", ("queue:express",)),
        ({"priority": "SLOW"}, "rest", "default", ("queue:rest",)),
        ({"priority": "SLOW"}, None, "dead", ()),
        ({"priority": 7}, "rest", "dead", ()),
    ],
)
def test_an_explanation_says_what_comes_of_the_message(
    body: object, default: str | None, outcome: str, destinations: tuple[str, ...]
) -> None:
    told = ContentBasedRouter("orders", default=default).when(EXPRESS, to="express").explain(message(body))

    assert (told.outcome, told.destinations) == (outcome, destinations)
    assert (told.reason is not None) is (outcome == "dead")


def test_what_is_no_message_cannot_be_explained() -> None:
    with pytest.raises(ConfigurationError, match="not declared as a message"):
        ContentBasedRouter("orders", default="rest").explain({"type": "order.placed"})
