"""What can be told from a graph."""

from __future__ import annotations

import json

from pillarbox.flow import Graph, Participant, Passage
from tests.unit.flow.shop import (
    ADVANCE,
    CANCELLED,
    CHARGED,
    EVERYBODY,
    PLACED,
    REJECTED,
    RESERVE,
    RESERVED,
    SHIPPED,
    THANK,
    WHOLE,
    at,
    graph,
    participant,
    without,
)


def test_what_follows_goes_by_way_of_commands_and_what_leads_goes_back() -> None:
    everything = {at(kind) for kind in (PLACED, CHARGED, RESERVE, RESERVED, REJECTED, SHIPPED, CANCELLED)}

    assert WHOLE.after([at(PLACED)]) == everything
    assert WHOLE.after([at(SHIPPED)]) == {at(SHIPPED)}
    assert WHOLE.before([at(CANCELLED)]) == everything - {at(SHIPPED), at(RESERVED)}


def test_a_route_leads_only_from_the_same_type() -> None:
    express = Passage(PLACED, "queue:express")
    route = Participant(
        consumer="shop/route",
        hears=(at(PLACED), at(CHARGED)),
        publishes=(Passage(CHARGED, "queue:express"), express),
        forwards=True,
    )

    assert graph(route).after([at(PLACED)]) == {at(PLACED), express}
    assert graph(route).before([express]) == {at(PLACED), express}


def test_a_reaction_is_seen_by_the_events_that_a_command_causes() -> None:
    expected = WHOLE.expected_of(ADVANCE, at(CHARGED))

    assert expected == (frozenset({RESERVED, REJECTED}), True, ("stock/take",))


def test_nothing_is_expected_of_who_may_be_silent_or_does_not_say() -> None:
    unsure = participant("stock/take", RESERVE, RESERVED, silent=True)

    assert WHOLE.expected_of(THANK, at(CHARGED)).types == frozenset()
    assert not graph(ADVANCE, unsure).expected_of(ADVANCE, at(CHARGED)).is_certain
    assert not graph(ADVANCE).expected_of(ADVANCE, at(CHARGED)).is_certain, "nobody is known to take the command"


def test_commands_that_cause_each_other_end_the_search() -> None:
    loop = participant("stock/take", RESERVE, RESERVE)

    assert not graph(ADVANCE, loop).expected_of(ADVANCE, at(CHARGED)).is_certain


def test_a_graph_is_read_again_from_its_json() -> None:
    marked = Graph(participants=WHOLE.participants, starts=(PLACED,), ends=(SHIPPED, CANCELLED))

    assert Graph.from_dict(json.loads(marked.json())) == marked


def test_graphs_are_merged_by_name_and_the_first_word_counts() -> None:
    mine, theirs = participant("shop/a", PLACED, CHARGED), participant("shop/a", PLACED)

    merged = graph(mine).merged(graph(theirs, THANK), Graph(starts=(PLACED,)))

    assert merged.participants == (mine, THANK)
    assert merged.starts == (PLACED,)


def test_as_mermaid_every_message_and_consumer_is_a_node() -> None:
    marked = Graph(participants=without("stock/take").participants, starts=(PLACED,), ends=(SHIPPED,))

    text = marked.mermaid()

    assert text.startswith("flowchart LR\n")
    assert '(["order.placed"])' in text
    assert '[/"stock.reserve"/]' in text
    assert all(f'["{one.consumer}"]' in text for one in EVERYBODY if one.consumer != "stock/take")
    assert "class m2 starts" in text


def test_a_type_on_several_channels_is_named_with_them_and_what_is_open_ends_in_a_question() -> None:
    route = Participant(
        consumer="shop/route", hears=(at(PLACED),), publishes=(Passage(PLACED, "queue:<x>"),), forwards=True
    )

    text = graph(route, participant("shop/open", CHARGED, is_open=True)).mermaid()

    assert "order.placed on queue:#lt;x#gt;" in text
    assert "o((?))" in text
