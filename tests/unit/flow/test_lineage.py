"""Who caused whom, also by way of what nobody saw."""

from __future__ import annotations

from dataclasses import replace

from pillarbox.flow import Participant, Passage, SeenMessage
from pillarbox.flow.lineage import Lineage
from pillarbox.message import derived_message_id
from tests.unit.flow.shop import CHARGED, PLACED, RESERVE, RESERVED, SHIPPED, WHOLE, at, graph, message, participant

FIRST = message(PLACED, "m-1")
PAID = message(CHARGED, "m-2", FIRST)
STOCKED = message(RESERVED, "m-3", PAID, by_way_of=RESERVE)
SENT = message(SHIPPED, "m-4", STOCKED)


def tree(lineage: Lineage, root: SeenMessage | None = None) -> dict[str, object]:
    return {one.message_id: tree(lineage, one) for one in lineage.children(root)}


def test_a_command_is_known_from_what_it_caused_and_its_cause_from_the_graph() -> None:
    lineage = Lineage([SENT, STOCKED, PAID, FIRST], WHOLE)

    assert tree(lineage) == {"m-1": {"m-2": {"stock.reserve-for-m-3": {"m-3": {"m-4": {}}}}}}
    assert lineage.messages["stock.reserve-for-m-3"].passage == at(RESERVE)


def test_where_several_may_have_sent_a_command_nobody_knows_who_did() -> None:
    also_paid = message(CHARGED, "m-5", FIRST)

    lineage = Lineage([FIRST, PAID, also_paid, STOCKED], WHOLE)

    assert set(tree(lineage)) == {"m-1", "stock.reserve-for-m-3"}
    assert RESERVED not in lineage.answers_to(PAID) | lineage.answers_to(also_paid)
    assert lineage.adrift[-1] == STOCKED
    assert lineage.may_follow(STOCKED, PAID)
    assert lineage.may_follow(STOCKED, also_paid)


def test_what_came_of_a_copy_came_of_the_message_that_was_copied() -> None:
    express = Passage(PLACED, "queue:express")
    route = Participant(consumer="shop/route", hears=(at(PLACED),), publishes=(express,), forwards=True)
    charge = replace(participant("payment/charge", PLACED, CHARGED), hears=(express,))
    copy = derived_message_id("m-1", "shop/route", express.channel)
    paid = replace(PAID, causation_id=copy, cause=express, hop=2)

    lineage = Lineage([FIRST, paid], graph(route, charge))

    assert tree(lineage) == {"m-1": {copy: {"m-2": {}}}}
    assert CHARGED in lineage.answers_to(FIRST)


def test_what_was_caused_by_another_message_of_the_type_was_not_caused_by_this_one() -> None:
    also_paid = message(CHARGED, "m-5", FIRST)
    stocked = message(RESERVED, "m-6", also_paid)

    lineage = Lineage([FIRST, PAID, also_paid, stocked], WHOLE)

    assert lineage.answers_to(also_paid) == {RESERVED}
    assert lineage.answers_to(PAID) == frozenset()
    assert lineage.answers_to(FIRST) == {CHARGED, RESERVED}
    assert lineage.adrift == []


def test_where_a_message_causes_another_of_its_type_the_later_one_has_the_answer() -> None:
    again = message(CHARGED, "m-5", PAID)
    stocked = message(RESERVED, "m-6", again)

    lineage = Lineage([FIRST, PAID, again, stocked], WHOLE)

    assert lineage.answers_to(PAID) == {CHARGED}
    assert lineage.answers_to(again) == {RESERVED}


def test_where_a_cause_was_not_seen_the_descent_is_not_known() -> None:
    lineage = Lineage([FIRST, SENT], WHOLE)

    assert lineage.adrift == [lineage.messages["m-3"], SENT]
    assert lineage.may_follow(SENT, FIRST)
    assert not lineage.may_follow(FIRST, SENT)
    assert set(tree(lineage)) == {"m-1", "m-3"}


def test_messages_that_name_each_other_as_causes_are_no_trap() -> None:
    one = replace(PAID, causation_id="m-3")
    other = replace(STOCKED, causation_id="m-2")

    lineage = Lineage([FIRST, one, other], WHOLE)

    assert lineage.answers_to(FIRST) == frozenset()
    assert lineage.answers_to(one) == {RESERVED}


def test_a_first_message_that_names_itself_as_its_cause_is_the_first() -> None:
    begun = replace(FIRST, causation_id=FIRST.message_id, cause=FIRST.passage)

    lineage = Lineage([begun, PAID], WHOLE)

    assert tree(lineage) == {"m-1": {"m-2": {}}}
    assert lineage.answers_to(begun) == {CHARGED}
    assert lineage.adrift == []


def test_messages_that_name_each_other_as_their_cause_are_shown() -> None:
    begun = replace(FIRST, causation_id="m-3", cause=STOCKED.passage)
    stocked = replace(STOCKED, causation_id="m-2", cause=PAID.passage)

    lineage = Lineage([begun, PAID, stocked, SENT], WHOLE)

    assert tree(lineage) == {"m-1": {"m-2": {"m-3": {"m-4": {}}}}}
