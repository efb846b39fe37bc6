"""Conditions: what holds, what does not, what puts a message aside, and what is refused when it is written."""

from __future__ import annotations

from typing import Any

import pytest

from pillarbox.errors import ConfigurationError, DecodeError, UnknownMessageTypeError
from pillarbox.routing import RoutedMessage, condition_of
from pillarbox.routing.pattern import MAX_TEXT
from tests.unit.routing.messages import OrderPlaced, message, view

BODY = {
    "priority": "EXPRESS",
    "total": 4200,
    "rate": 1.5,
    "gift": True,
    "note": None,
    "tags": ["vip", "eu", 7],
    "items": [{"sku": "a-1"}, {"sku": "b-2"}],
    "customer": {"tier": "gold", "7": "seven"},
}


def holds(field: str, operator: str, *value: object) -> bool:
    said = {"field": field, "operator": operator} | ({"value": value[0]} if value else {})
    return condition_of(said).holds(view(BODY, headers={"region": "eu", "x.y": "dotted", "schemaversion": "2"}))


@pytest.mark.parametrize(
    ("field", "operator", "value"),
    [
        ("body.priority", "eq", "EXPRESS"),
        ("body.priority", "ne", "STANDARD"),
        ("body.priority", "in", ["EXPRESS", "OVERNIGHT"]),
        ("body.priority", "not_in", ["STANDARD"]),
        ("body.priority", "starts_with", "EXP"),
        ("body.priority", "ends_with", "ESS"),
        ("body.priority", "contains", "PRES"),
        ("body.priority", "matches", "EX[A-Z]+"),
        ("body.total", "gt", 4199),
        ("body.total", "ge", 4200),
        ("body.total", "lt", 4200.5),
        ("body.total", "le", 4200),
        ("body.total", "eq", 4200.0),
        ("body.rate", "gt", 1),
        ("body.gift", "eq", True),
        ("body.note", "eq", None),
        ("body.note", "exists", True),
        ("body.note", "ne", "x"),
        ("body.tags", "contains", "vip"),
        ("body.tags", "contains", 7),
        ("body.tags.1", "eq", "eu"),
        ("body.items.1.sku", "eq", "b-2"),
        ("body.customer.tier", "eq", "gold"),
        ("body.customer.7", "eq", "seven"),
        ("type", "starts_with", "order."),
        ("key", "eq", "o-1"),
        ("channel", "eq", "topic:order"),
        ("id", "exists", True),
        ("version", "eq", 2),
        ("header.region", "in", ["eu", "uk"]),
        ("header.x.y", "eq", "dotted"),
        ("header.missing", "exists", False),
    ],
)
def test_a_comparison_that_is_true_holds(field: str, operator: str, value: object) -> None:
    assert holds(field, operator, value)


@pytest.mark.parametrize(
    ("field", "operator", "value"),
    [
        ("body.priority", "eq", "STANDARD"),
        ("body.priority", "ne", "EXPRESS"),
        ("body.priority", "matches", "EX"),
        ("body.total", "gt", 4200),
        ("body.tags", "contains", "VIP"),
        ("body.tags", "contains", True),
        ("body.note", "lt", 5),
        ("body.note", "starts_with", ""),
        ("body.note", "contains", "x"),
        ("body.tags.3", "exists", True),
        ("body.tags.-1", "exists", True),
        ("body.priority.x", "exists", True),
        ("header.region", "eq", "uk"),
    ],
)
def test_a_comparison_that_is_false_does_not(field: str, operator: str, value: object) -> None:
    assert not holds(field, operator, value)


@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        ("eq", "x", False),
        ("eq", None, False),
        ("ne", "x", True),
        ("in", ["x", None], False),
        ("not_in", ["x"], True),
        ("lt", 1, False),
        ("ge", 1, False),
        ("starts_with", "", False),
        ("contains", "", False),
        ("matches", ".*", False),
        ("exists", True, False),
        ("exists", False, True),
    ],
)
@pytest.mark.parametrize("field", ["body.missing", "body.customer.missing", "body.missing.deeper"])
def test_a_missing_field_equals_nothing(field: str, operator: str, value: object, *, expected: bool) -> None:
    assert holds(field, operator, value) is expected


@pytest.mark.parametrize(
    ("field", "operator", "value"),
    [
        ("body.total", "eq", "4200"),
        ("body.total", "ne", "4200"),
        ("body.priority", "eq", 1),
        ("body.gift", "eq", 1),
        ("body.total", "eq", True),
        ("body.total", "in", ["4200", "x"]),
        ("body.total", "not_in", ["4200"]),
        ("body.total", "lt", "5000"),
        ("body.gift", "gt", 0),
        ("body.total", "starts_with", "4"),
        ("body.total", "matches", "\\d+"),
        ("body.customer", "contains", "tier"),
        ("body.customer", "eq", "gold"),
        ("body.tags", "gt", 1),
    ],
)
def test_values_of_unlike_kinds_are_not_compared(field: str, operator: str, value: object) -> None:
    with pytest.raises(TypeError, match="kind") as refused:
        holds(field, operator, value)

    assert "4200" not in str(refused.value)


def test_a_text_that_is_too_long_for_a_pattern_is_not_compared() -> None:
    condition = condition_of({"field": "body.note", "operator": "matches", "value": "a*"})

    assert condition.holds(view({"note": "a" * MAX_TEXT}))
    with pytest.raises(ValueError, match="too long"):
        condition.holds(view({"note": "a" * (MAX_TEXT + 1)}))


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({}, "no condition"),
        ({"field": "body.x"}, "no condition"),
        ({"field": "body.x", "operator": "eq", "value": 1, "colour": "red"}, "no condition"),
        ({"field": "body.x", "operator": "eq"}, "needs a value"),
        ({"field": "body.x", "operator": "=", "value": 1}, "nobody knows the operator '='; there are eq"),
        ({"field": "body.x", "operator": 7, "value": 1}, "operator 7"),
        ({"field": "priority", "operator": "eq", "value": 1}, "'priority' names no field"),
        ({"field": "body.", "operator": "eq", "value": 1}, "names no field"),
        ({"field": "body..x", "operator": "eq", "value": 1}, "names no field"),
        ({"field": "header.Region", "operator": "eq", "value": "eu"}, "names no field"),
        ({"field": "header", "operator": "exists"}, "names no field"),
        ({"field": "type.x", "operator": "exists"}, "names no field"),
        ({"field": 3, "operator": "exists"}, "named by a text"),
        ({"field": "body.x", "operator": "in", "value": []}, "at least one"),
        ({"field": "body.x", "operator": "in", "value": "EXPRESS"}, "takes a list"),
        ({"field": "body.x", "operator": "eq", "value": [1]}, "not with"),
        ({"field": "body.x", "operator": "lt", "value": None}, "not with None"),
        ({"field": "body.x", "operator": "lt", "value": float("nan")}, "not with nan"),
        ({"field": "body.x", "operator": "starts_with", "value": 1}, "not with 1"),
        ({"field": "body.x", "operator": "exists", "value": "yes"}, "true or false"),
        ({"field": "header.total", "operator": "gt", "value": 5}, "the field holds a text"),
        ({"field": "version", "operator": "eq", "value": "2"}, "the field holds a number"),
        ({"field": "key", "operator": "eq", "value": None}, "the field holds a text"),
        ({"any": []}, "at least one"),
        ({"all": {}}, "take a list"),
        ({"all": [{"field": "nowhere", "operator": "exists"}]}, "'nowhere' names no field"),
        ({"not": {}}, "no condition"),
        ({"all": [], "any": []}, "no condition"),
        ("body.x == 1", "no condition"),
        (OrderPlaced, "no condition"),
    ],
)
def test_what_is_written_wrongly_is_refused_when_it_is_written(said: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        condition_of(said)

    assert complaint in str(refused.value)


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "[[]",
        "[a",
        "[a-\\d]",
        ")",
        "[",
        "[]",
        "a)",
        "*",
        "a**",
        "a{2",
        "a{3,2}",
        "a{,2}",
        "\\",
        "\\1",
        "\\b",
        "(?:a)",
        "^a",
        "a$",
        "[b-a]",
        "]",
    ],
)
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="pattern"):
        condition_of({"field": "body.x", "operator": "matches", "value": pattern})


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("", ""),
        ("a|b|", ""),
        ("(ab|cd)+x?", "abcdx"),
        ("[a-c-]{2,}", "b-a"),
        ("[^\\d\\]]+", "ab"),
        ("[\\w.]*", "a_1.b"),
        ("\\D\\S\\W\\s\\n", "ab- \n"),
        ("a{0,2}b{1}c{2,3}", "bcc"),
        ("\\(.\\)", "(é)"),
        ("-", "-"),
    ],
)
def test_patterns_match_whole_texts(pattern: str, text: str) -> None:
    condition = condition_of({"field": "body.x", "operator": "matches", "value": pattern})

    assert condition.holds(view({"x": text}))
    assert not condition.holds(view({"x": f"{text}]"}))


@pytest.mark.parametrize("pattern", ["a{999}", "((a{30}){30}){30}", "(" * 200 + ")" * 200])
def test_a_pattern_that_is_too_large_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match=r"too (large|deeply)"):
        condition_of({"field": "body.x", "operator": "matches", "value": pattern})


def test_a_condition_that_is_nested_without_end_is_refused() -> None:
    said: dict[str, Any] = {"field": "key", "operator": "exists"}
    for _ in range(2_000):
        said = {"not": said}

    with pytest.raises(ConfigurationError, match="nested"):
        condition_of(said)


def test_conditions_combine() -> None:
    express = {"field": "body.priority", "operator": "eq", "value": "EXPRESS"}
    large = {"field": "body.total", "operator": "gt", "value": 10_000}
    order = view(BODY)

    assert condition_of({"all": []}).holds(order)
    assert not condition_of({"all": [express, large]}).holds(order)
    assert condition_of({"any": [large, express]}).holds(order)
    assert condition_of({"all": [express, {"not": large}]}).holds(order)


def test_a_predicate_sees_the_envelope_the_body_and_the_object() -> None:
    seen: list[object] = []

    def look(m: RoutedMessage) -> bool:
        seen.extend([m.id, m.type, m.version, m.key, m.channel, m.headers["region"], m.body["order_id"], m.payload])
        return True

    order = view({"order_id": "o-1", "total_cents": 7}, headers={"region": "eu"})

    assert condition_of(look).holds(order)
    assert seen[1:] == ["order.placed", 1, "o-1", "topic:order", "eu", "o-1", OrderPlaced("o-1", 7)]


@pytest.mark.parametrize("answer", [None, 1, "", [], object()])
def test_an_answer_that_is_neither_true_nor_false_is_an_error(answer: object) -> None:
    def predicate(_: RoutedMessage) -> Any:
        return answer

    with pytest.raises(TypeError, match="predicate returned a"):
        condition_of(predicate).holds(view(BODY))


def test_an_asynchronous_predicate_is_refused() -> None:
    async def predicate(_: RoutedMessage) -> bool:
        return True

    with pytest.raises(ConfigurationError, match="plain function"):
        condition_of(predicate)  # type: ignore[arg-type]


def test_a_body_in_another_format_cannot_be_looked_into() -> None:
    other = view(BODY, content_type="application/protobuf")

    assert condition_of({"field": "type", "operator": "eq", "value": "order.placed"}).holds(other)
    with pytest.raises(DecodeError, match="protobuf"):
        condition_of({"field": "body.priority", "operator": "exists"}).holds(other)


def test_the_object_of_an_unknown_type_cannot_be_looked_at_and_its_body_can() -> None:
    shipped = view({"x": 1}).message
    from pillarbox.routing.view import reader_of

    unknown = reader_of().view(shipped)

    assert unknown.body == {"x": 1}
    with pytest.raises(UnknownMessageTypeError):
        _ = unknown.payload


def test_the_body_is_read_once() -> None:
    order = view(BODY)

    assert order.body is order.body


def test_an_explanation_says_what_was_found_and_what_was_wanted() -> None:
    condition = condition_of(
        {
            "all": [
                {"field": "body.priority", "operator": "eq", "value": "EXPRESS"},
                {"any": [{"field": "body.total", "operator": "gt", "value": 10_000}, {"not": {"all": []}}]},
                {"field": "key", "operator": "exists"},
            ]
        }
    )

    assert condition.why(view(BODY)) == (
        "(body.priority is 'EXPRESS'; wanted: eq 'EXPRESS') and "
        "((body.total is 4200; wanted: gt 10000) or (not (it always holds)))"
    )
    assert condition.why(view({})) == "body.priority is missing; wanted: eq 'EXPRESS'"


def test_a_message_without_a_key_lacks_the_field() -> None:
    assert condition_of({"field": "key", "operator": "exists", "value": False}).holds(view(BODY, key=None))
    assert message(BODY).key == "o-1"
