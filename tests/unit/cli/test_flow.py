"""``pillarbox flow``: the graph, what is wrong with it, one process, and what is stuck."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pillarbox.errors import ConfigurationError
from pillarbox.flow import Graph, Participant, Passage, SeenMessage
from pillarbox.flow.policy import FlowState
from pillarbox.flow.trace import DEEPEST
from pillarbox.relational import RelationalStore
from pillarbox.transaction import Program
from tests.unit.cli.conftest import Shell

MESSAGES = """
from dataclasses import dataclass
from datetime import timedelta
from pillarbox import Pillarbox, event

@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str

@event("order.shipped", key="order_id")
@dataclass(frozen=True)
class OrderShipped:
    order_id: str

@event("order.paid", key="order_id")
@dataclass(frozen=True)
class OrderPaid:
    order_id: str
"""
SHOP = """
from flow_messages import *

box = Pillarbox("shop", store="{url}")
box.flow("fulfilment", starts=OrderPlaced, ends=OrderShipped, within=timedelta(minutes=1))

@box.on(OrderPlaced, name="charge")
async def charge(order: OrderPlaced) -> OrderPaid: ...
"""
SHIPPING = """
from flow_messages import *

box = Pillarbox("shipping", store="sqlite:///no-such.db")

@box.on(OrderPaid, name="ship")
async def ship(order: OrderPaid) -> OrderShipped: ...
"""
PLACED = Passage("order.placed", "topic:order")


@pytest.fixture
def programs(pillarbox: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two programs, ``flow_shop`` and ``flow_shipping``."""
    written = {"messages": MESSAGES, "shop": SHOP.replace("{url}", pillarbox.url), "shipping": SHIPPING}
    for name, text in written.items():
        (tmp_path / f"flow_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in written:
        sys.modules.pop(f"flow_{name}", None)


def test_the_graph_of_programs_is_one_flowchart_and_needs_no_database(pillarbox: Shell, programs: None) -> None:
    both = ("flow", "graph", "--app", "flow_shop:box", "--app", "flow_shipping:box")

    text = pillarbox(*both, store=False)
    facts = json.loads(pillarbox(*both, "--json", store=False).output)

    assert (text.exit_code, text.output.splitlines()[0]) == (0, "flowchart LR")
    assert [one.consumer for one in Graph.from_dict(facts).participants] == ["shipping/ship", "shop/charge"]
    assert (facts["starts"], facts["ends"]) == (["order.placed"], ["order.shipped"])


def test_the_graph_of_a_store_has_what_has_run_on_it(pillarbox: Shell) -> None:
    one = Participant(consumer="shop/charge", hears=(PLACED,))
    pillarbox.run(lambda store: store.flows.participants.enlist("shop", [one]))

    facts = pillarbox.json("flow", "graph")

    assert Graph.from_dict(facts).participants == (one,)


def test_a_graph_is_of_programs_or_of_a_store(pillarbox: Shell, programs: None) -> None:
    assert pillarbox("flow", "graph", store=False).exit_code == 2
    assert pillarbox("flow", "graph", "--app", "flow_shop:box").exit_code == 2


def test_a_check_fails_while_anything_is_wrong_and_says_what(pillarbox: Shell, programs: None) -> None:
    alone = pillarbox("flow", "check", "--app", "flow_shop:box", store=False)
    as_json = pillarbox("flow", "check", "--app", "flow_shop:box", "--json", store=False)
    both = pillarbox("flow", "check", "--app", "flow_shop:box", "--app", "flow_shipping:box", store=False)

    assert alone.exit_code == as_json.exit_code == 1
    assert "order.paid, published by shop/charge, is heard by nobody" in alone.output
    assert {one["code"] for one in json.loads(as_json.output)} == {"no-way-to-end", "unheard-event"}
    assert (both.exit_code, both.output) == (0, "nothing is wrong, as far as the graph tells\n")


def test_a_check_of_programs_without_flows_is_a_mistake(pillarbox: Shell, programs: None) -> None:
    done = pillarbox("flow", "check", "--app", "flow_shipping:box", store=False)

    assert done.exit_code == 2
    assert "no flow is declared" in done.output
    assert not isinstance(done.exception, ConfigurationError)


@pytest.fixture
def stuck(pillarbox: Shell) -> Callable[[], str]:
    """A process that was found to be stuck."""

    def begin(store: RelationalStore) -> Program[None]:
        at = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
        first = SeenMessage(
            correlation_id="p-1", message_id="p-1", passage=PLACED, service="shop", published_at=at, seen_at=at
        )
        yield from store.flows.journal.note([first])
        standing = yield from store.flows.instances.lock([("shop/fulfilment", "p-1")], ())
        found = replace(
            standing.instances[0],
            state=FlowState.STUCK,
            started_at=standing.now - timedelta(hours=1),
            stuck_at=standing.now,
            missing=("order.shipped has not come",),
        )
        yield from store.flows.instances.save([found])

    pillarbox.run(begin)
    return lambda: "p-1"


@pytest.mark.usefixtures("stuck")
def test_what_is_stuck_is_listed_with_what_is_missing_until_it_is_closed(pillarbox: Shell) -> None:
    (listed,) = pillarbox.json("flow", "stuck")
    close = ("flow", "close", "shop/fulfilment", "p-1", "--reason", "sent by hand", "--by", "ann")

    assert (listed["flow"], listed["correlation_id"]) == ("shop/fulfilment", "p-1")
    assert listed["missing"] == ["order.shipped has not come"]
    assert "order.shipped has not come" in pillarbox.text("flow", "stuck")
    assert "1 processes of flows are stuck" in pillarbox("health").output
    assert pillarbox.json("health")["flows"]["stuck"] == 1
    assert "nothing more is waited for" in pillarbox.text(*close)
    assert pillarbox(*close).exit_code == 2
    assert pillarbox(*close, "--all").exit_code == 2
    assert pillarbox.text("flow", "stuck") == "no process is stuck\n"


@pytest.mark.usefixtures("stuck", "programs")
def test_with_its_program_a_process_is_judged_anew(pillarbox: Shell) -> None:
    done = pillarbox("flow", "stuck", "--app", "flow_shop:box", "--json", store=False)

    (listed,) = json.loads(done.output)
    assert listed["missing"] == [
        "order.shipped has not come",
        "shop/charge has not reacted to order.placed (p-1) with order.paid",
    ]


@pytest.mark.usefixtures("stuck")
def test_a_process_is_printed_as_a_tree(pillarbox: Shell) -> None:
    facts = pillarbox.json("flow", "trace", "p-1")

    assert pillarbox.text("flow", "trace", "p-1") == "order.placed p-1 by shop at 2026-03-01T12:00:00.000+00:00\n"
    assert (facts["correlation_id"], facts["roots"][0]["type"]) == ("p-1", "order.placed")


def test_a_long_process_is_printed_as_far_down_as_it_is_shown(pillarbox: Shell) -> None:
    def begin(store: RelationalStore) -> Program[None]:
        chain = [
            SeenMessage(
                correlation_id="m-0",
                message_id=f"m-{number}",
                passage=PLACED,
                causation_id=f"m-{number - 1}" if number else None,
                hop=number,
                seen_at=datetime(2026, 3, 1, tzinfo=UTC),
            )
            for number in range(DEEPEST + 50)
        ]
        yield from store.flows.journal.note(chain)

    pillarbox.run(begin)

    assert pillarbox.text("flow", "trace", "m-0").count("order.placed") == DEEPEST
    (root,) = pillarbox.json("flow", "trace", "m-0")["roots"]
    assert root["message_id"] == "m-0"


def test_of_a_process_that_nobody_knows_nothing_is_printed(pillarbox: Shell) -> None:
    done = pillarbox("flow", "trace", "p-2")

    assert done.exit_code == 2
    assert "no process 'p-2'" in done.output


def test_what_is_included_as_json_is_what_the_command_prints(pillarbox: Shell, programs: None) -> None:
    facts = json.loads(pillarbox("flow", "graph", "--app", "flow_shipping:box", "--json", store=False).output)

    assert facts["consumers"][0]["hears"] == [{"type": "order.paid", "channel": "topic:order"}]


@pytest.mark.usefixtures("stuck")
def test_all_that_is_stuck_of_a_flow_can_be_closed_at_once(pillarbox: Shell) -> None:
    of = ("--all", "--reason", "the flow is gone", "--by", "ann")

    nothing = pillarbox("flow", "close", "shop/other", *of)
    assert (nothing.exit_code, "no stuck process of flow 'shop/other'" in nothing.stderr) == (2, True)
    assert pillarbox.json("flow", "close", "shop/fulfilment", *of)["closed"] == 1
    assert pillarbox.json("flow", "stuck") == []
