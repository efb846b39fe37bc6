"""``pillarbox explain``: where a message would go, and why."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from pillarbox.cli import commands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROGRAM = """
from dataclasses import dataclass
from pillarbox import ContentBasedRouter, Pillarbox, WireTap, event

@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    priority: str = "STANDARD"

@event("letter.sent", key="letter_id", version=2)
@dataclass(frozen=True)
class LetterSent:
    letter_id: str
    express: bool

box = Pillarbox("shop", store="sqlite:///no-such.db")
box.include(ContentBasedRouter("sent", source=LetterSent).when(lambda m: m.payload.express, to="by-air").when(
    {"field": "version", "operator": "eq", "value": 1}, to="of-old"))
router = ContentBasedRouter("orders", source=OrderPlaced, default="standard")
router.when({"field": "body.priority", "operator": "eq", "value": "EXPRESS"}, to="express", name="fast")
router.when(lambda m: m.payload.order_id.startswith("eu-"), to="eu")
box.include(router)
box.include(WireTap("tap", source="topic:order", to="audit"))
box.include(ContentBasedRouter("parcels", source="queue:parcels").when(
    {"field": "header.region", "operator": "eq", "value": "eu"}, to="eu-parcels"))
"""
NAME = "program_to_explain"


@pytest.fixture
def explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Runs ``pillarbox explain`` on a program, with a message in a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{NAME}.py").write_text(PROGRAM)

    def run(message: object, *options: str) -> Result:
        text = message if isinstance(message, str) else json.dumps(message)
        (tmp_path / "message.json").write_text(text)
        return CliRunner().invoke(
            commands, ["explain", f"{NAME}:box", "--message", "message.json", *options], prog_name="pillarbox"
        )

    yield run
    sys.modules.pop(NAME, None)


def test_it_says_where_a_message_would_go_and_why(explain: Callable[..., Result]) -> None:
    done = explain({"type": "order.placed", "body": {"order_id": "eu-1", "priority": "EXPRESS"}})

    assert (done.exit_code, done.output) == (
        0,
        "orders: order.placed example is routed: queue:express\n"
        "  > fast -> queue:express: yes, body.priority is 'EXPRESS'; wanted: eq 'EXPRESS'\n"
        "    rule-2 -> queue:eu: yes, <lambda> returned True\n"
        "tap: order.placed example is routed: queue:audit\n"
        "  > tap -> queue:audit: yes, every message is\n",
    )


def test_programs_read_json(explain: Callable[..., Result]) -> None:
    done = explain({"type": "order.placed", "body": {"order_id": 7}, "id": "m-1"}, "--route", "orders", "--json")

    (told,) = json.loads(done.output)
    assert (told["route"], told["message_id"], told["outcome"], told["destinations"]) == ("orders", "m-1", "dead", [])
    assert "DecodeError" in told["reason"]
    assert [(rule["rule"], rule["matched"], rule["decides"]) for rule in told["rules"]] == [
        ("fast", False, False),
        ("rule-2", None, False),
    ]


def test_a_channel_and_headers_can_be_named(explain: Callable[..., Result]) -> None:
    message: dict[str, Any] = {"type": "parcel.sent", "body": None, "channel": "queue:parcels"}

    assert "is dead: no rule of 'parcels'" in explain(message).output
    assert "is routed: queue:eu-parcels" in explain({**message, "headers": {"region": "eu"}}).output


def test_a_message_is_of_the_newest_version_unless_its_headers_say_another(explain: Callable[..., Result]) -> None:
    message = {"type": "letter.sent", "body": {"letter_id": "l-1", "express": True}}

    done = explain(message)
    assert "letter.sent example is routed: queue:by-air" in done.output

    done = explain({**message, "headers": {"schemaversion": "1"}})
    assert "no upcaster from version 1" in done.output


def test_where_the_type_is_not_known_every_route_is_asked(explain: Callable[..., Result]) -> None:
    done = explain({"type": "parcel.sent", "body": {}, "headers": {"region": "eu"}})

    assert [line.partition(":")[0] for line in done.output.splitlines() if line[0] != " "] == ["tap", "parcels"]


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ("{", "holds no JSON"),
        ("[" * 100_000, "holds no JSON"),
        ("[]", "holds no message; write"),
        ({"type": "order.placed"}, "holds no message; write"),
        ({"body": {}}, "holds no message; write"),
        ({"type": "order.placed", "body": {}, "colour": "red"}, "holds no message; write"),
        ({"type": "order.placed", "body": {}, "headers": {"x": 1}}, "holds no message; write"),
        ({"type": "order.placed", "body": {}, "headers": []}, "holds no message; write"),
        ({"type": "order.placed", "body": {}, "key": 0}, "holds no message; write"),
        ({"type": "order.placed", "body": {}, "channel": 0}, "holds no message; write"),
        ({"type": "order.placed", "body": {}, "channel": ""}, "'' is not a destination"),
        ('{"type": "order.placed", "body": {}, "id": "\\ud800"}', "holds no message; write"),
        ({"type": "order.placed", "body": {}, "channel": "orders"}, "'orders' is not a destination"),
        ({"type": "order.placed", "body": {}, "channel": "queue:other"}, "does not come to any route"),
    ],
)
def test_what_is_no_message_is_refused_with_its_shape(
    explain: Callable[..., Result], message: object, complaint: str
) -> None:
    done = explain(message)

    assert done.exit_code == 2
    assert complaint in done.output


def test_a_route_that_is_not_there_is_an_error(explain: Callable[..., Result]) -> None:
    done = explain({"type": "order.placed", "body": {}}, "--route", "payments")

    assert done.exit_code == 2
    assert "does not come to a route 'payments'" in done.output


def test_it_opens_no_database(explain: Callable[..., Result], tmp_path: Path) -> None:
    explain({"type": "order.placed", "body": {"order_id": "o-1"}})

    assert not (tmp_path / "no-such.db").exists()
