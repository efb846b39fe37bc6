"""Headers of NATS, there and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pillarbox.brokers.nats.headers import block_of, headers_from, message_from
from pillarbox.brokers.nats.layout import channel_of, durable_of, stream_of, subject_of
from pillarbox.message import Message


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


def test_names_hold_nothing_that_nats_forbids_and_are_undone() -> None:
    channel = "topic:order.items"

    assert stream_of(channel) == "topic:order=items"
    assert channel_of(stream_of(channel)) == channel
    assert subject_of(channel, 7) == "topic.order.items.7"
    assert durable_of("shop.eu/stock", 7) == "shop=eu~stock-7"
