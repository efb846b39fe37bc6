"""The copies that a route forwards."""

from __future__ import annotations

from uuid import UUID

import pytest
from msgspec.structs import replace

from pillarbox.errors import DecodeError, RoutingLoopError
from pillarbox.message import Number, derived_message_id, new_message_id, number_of
from pillarbox.routing import Decision, copies_of
from tests.unit.routing.messages import message

ORDER = message({"order_id": "o-1"}, headers={"source": "shop", "region": "eu", "replyto": "queue:replies", "hop": "2"})
BOTH = Decision(destinations=("queue:express", "topic:large"))


def test_a_copy_has_the_same_body_and_key_and_says_where_it_comes_from() -> None:
    (copy, _) = copies_of(ORDER, BOTH, by="shop/orders")

    assert copy == replace(ORDER, id=copy.id, destination="queue:express", headers=copy.headers)
    assert copy.headers == {
        **ORDER.headers,
        "correlationid": ORDER.id,
        "causationid": ORDER.id,
        "hop": "3",
        "routedby": "shop/orders",
    }


def test_the_id_of_a_copy_is_the_same_at_every_attempt_and_differs_by_destination_and_route() -> None:
    first, again = (copies_of(ORDER, BOTH, by="shop/orders") for _ in range(2))
    other = copies_of(ORDER, BOTH, by="shop/others")

    assert first == again
    assert len({ORDER.id, *(copy.id for copy in [*first, *other])}) == 5


def test_a_copy_keeps_the_correlation_of_its_process() -> None:
    (copy,) = copies_of(replace(ORDER, headers={"correlationid": "c-1"}), Decision(destinations=("queue:x",)), by="s/r")

    assert (copy.correlation_id, copy.causation_id) == ("c-1", ORDER.id)


def test_a_tapped_copy_is_marked_and_nobody_answers_it() -> None:
    decision = Decision(destinations=("queue:then",), tapped=("queue:audit",))

    main, tapped = copies_of(ORDER, decision, by="shop/tap")

    assert (main.reply_to, main.headers.get("tappedby")) == ("queue:replies", None)
    assert (tapped.reply_to, tapped.headers.get("tappedby")) == (None, "shop/tap")


def test_a_message_that_comes_back_to_a_route_goes_no_further() -> None:
    (first,) = copies_of(ORDER, Decision(destinations=("queue:b",)), by="shop/a")
    (second,) = copies_of(first, Decision(destinations=("queue:a",)), by="shop/b")

    with pytest.raises(RoutingLoopError, match="passed shop/a shop/b"):
        copies_of(second, Decision(destinations=("queue:b",)), by="shop/a")


def test_a_hop_count_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(DecodeError, match="hop"):
        copies_of(replace(ORDER, headers={"hop": "many"}), BOTH, by="shop/orders")


def test_a_derived_id_is_a_uuid_that_sorts_beside_its_parent() -> None:
    parent = new_message_id()

    derived = derived_message_id(parent, "shop/orders", "queue:express")

    assert (UUID(derived).version, str(UUID(derived))) == (8, derived)
    assert derived[:13] == parent[:13]
    assert derived_message_id(derived, "x")[:13] == parent[:13]


@pytest.mark.parametrize("parent", ["", "m1", "not-a-uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "a" * 200])
def test_any_id_can_have_derived_ones(parent: str) -> None:
    one, other = derived_message_id(parent, "a"), derived_message_id(parent, "b")

    assert UUID(one).version == UUID(other).version == 8
    assert one != other


def test_purposes_do_not_run_together() -> None:
    assert derived_message_id("m", "ab", "c") != derived_message_id("m", "a", "bc")


def test_a_copy_keeps_the_causes_of_its_message() -> None:
    caused = replace(ORDER, headers={**ORDER.headers, "causes": '[["m0","order.placed","topic:order"]]'})

    assert {copy.causes for copy in copies_of(caused, BOTH, by="shop/orders")} == {caused.causes}


def test_a_copy_bears_no_number() -> None:
    """Numbers count by destination: the copy is of another line."""
    numbered = replace(ORDER, headers={**ORDER.headers, **Number(7, 3).headers})

    (copy, _) = copies_of(numbered, BOTH, by="shop/orders")

    assert number_of(copy) is None
    assert not {"sequence", "sequenceepoch"} & set(copy.headers)
