"""Rules of the message's well-known headers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pillarbox.errors import DecodeError
from pillarbox.message import Message


def _message(**headers: str) -> Message:
    return Message(
        id="m-1",
        type="order.placed",
        destination="topic:order",
        key="o-1",
        content_type="application/json",
        headers=headers,
        body=b"{}",
    )


def test_well_known_headers_are_read() -> None:
    message = _message(
        source="shop",
        time="2026-01-02T03:04:05.000006Z",
        schemaversion="3",
        correlationid="c",
        causationid="p",
        hop="2",
        replyto="queue:shop.replies",
    )

    assert (message.source, message.version, message.hop) == ("shop", 3, 2)
    assert (message.correlation_id, message.causation_id, message.reply_to) == ("c", "p", "queue:shop.replies")
    assert message.time == datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


def test_a_message_without_headers_starts_its_own_process() -> None:
    message = _message()

    assert (message.correlation_id, message.hop, message.version) == ("m-1", 0, 1)
    assert (message.source, message.time, message.causation_id, message.reply_to) == (None, None, None, None)


@pytest.mark.parametrize("text", ["", "-1", "1.0", "x", "٣", "9" * 10, "0"])
def test_an_unreadable_version_is_undecodable(text: str) -> None:
    with pytest.raises(DecodeError, match="schemaversion"):
        _ = _message(schemaversion=text).version


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-01T00:00:00"])
def test_an_unreadable_time_is_undecodable(text: str) -> None:
    with pytest.raises(DecodeError, match="RFC 3339"):
        _ = _message(time=text).time
