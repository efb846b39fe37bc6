"""Headers of NATS, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.brokers.nats.headers import block_of, headers_from, message_from
from pillarbox.brokers.nats.layout import channel_of, durable_of, stream_of, subject_of
from pillarbox.errors import InvalidMessageError
from pillarbox.message import Message
from pillarbox.serialization import ForeignMessages


def message(key: str | None = "o-1", **headers: str) -> Message:
    return Message(
        id="m-1",
        type="order.placed",
        destination="topic:order",
        key=key,
        content_type="application/json",
        headers={"source": "shop", **headers},
        body=b"{}",
    )


@given(st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs", "Cc"])))
def test_any_key_and_any_value_come_back(text: str) -> None:
    sent = message(key=text, note=text)
    block = block_of(sent)

    assert block.isascii()
    assert block.count(b"\r\n") == 2 + len(headers_from(block)), "no value breaks out of its line"
    assert message_from(headers_from(block), sent.body, channel=sent.destination, place="s/1") == sent


@pytest.mark.parametrize("name", ["naïve", "x: y\r\nNats-Rollup", "a b", "", "Nats-Rollup", "nats-expected-stream"])
def test_a_header_of_a_name_that_would_mean_something_else_is_refused(name: str) -> None:
    with pytest.raises(InvalidMessageError, match="cannot carry a header of the name"):
        block_of(message(**{name: "all"}))


@pytest.mark.parametrize("foreign", [None, ForeignMessages(id="header:Nats-Msg-Id", type="=order.placed")])
def test_orders_to_the_server_are_no_headers_of_the_message(foreign: ForeignMessages | None) -> None:
    headers = {"Nats-Msg-Id": "7", "Nats-Expected-Stream": "queue:here", "note": "n"}

    found = message_from(headers, b"{}", channel="queue:here", place="s/1", foreign=foreign)

    assert {name for name in found.headers if name != "source"} == {"note"}
    assert found.id == ("s/1" if foreign is None else "7")


def test_names_hold_nothing_that_nats_forbids_and_are_undone() -> None:
    channel = "topic:order.items"

    assert stream_of(channel) == "topic:order=items"
    assert channel_of(stream_of(channel)) == channel
    assert subject_of(channel, 7) == "topic.order.items.7"
    assert durable_of("shop.eu/stock", 7) == "shop=eu~stock-7"
