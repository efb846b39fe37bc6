"""What is kept of a message's failures has a bound, however often it is tried."""

from __future__ import annotations

from datetime import UTC, datetime

from pillarbox.consumer.item import FIRST_FAILURES, LAST_FAILURES, Item
from pillarbox.message import Message

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MESSAGE = Message(
    id="m-1", type="a", destination="topic:a", key=None, content_type="application/json", headers={}, body=b"{}"
)


def failed_so_often(count: int) -> list[int]:
    """Return which attempts are kept of a message that has failed ``count`` times."""
    item = Item(message=MESSAGE, hold_key="m:m-1")
    for attempt in range(1, count + 1):
        item.attempts = attempt
        item.failed(ValueError("no"), at=NOW, redact=str)
    return [one.attempt for one in item.history]


def test_of_ten_thousand_failures_the_first_and_the_last_are_kept() -> None:
    kept = failed_so_often(10_000)

    assert kept[:FIRST_FAILURES] == list(range(1, FIRST_FAILURES + 1))
    assert kept[FIRST_FAILURES:] == list(range(10_001 - LAST_FAILURES, 10_001))


def test_of_few_failures_each_is_kept_once() -> None:
    for count in (1, FIRST_FAILURES, FIRST_FAILURES + 1, FIRST_FAILURES + LAST_FAILURES):
        assert failed_so_often(count) == list(range(1, count + 1))
