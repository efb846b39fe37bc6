"""Rules of names, keys, ids and destinations."""

from __future__ import annotations

import pytest

from pillarbox.errors import ConfigurationError, InvalidMessageError
from pillarbox.message import (
    Limits,
    check_name,
    new_message_id,
    parse_destination,
    queue_destination,
    topic_destination,
    topic_of,
)
from pillarbox.message.names import check_key, check_message_id


@pytest.mark.parametrize("name", ["order", "order.placed", "a", "0", "a-b_c.d-e", "x" * 200])
def test_plain_names_are_let_through(name: str) -> None:
    assert check_name(name, what="queue") == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "_a", "a/b", "ä", "A", "x" * 201, "a:b", "a\0", "\uff41"])
def test_other_names_are_refused_by_what_they_name(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"queue .* is not a valid name"):
        check_name(name, what="queue")


def test_the_topic_of_a_name_is_its_first_segment() -> None:
    assert (topic_of("order.placed.late"), topic_of("order")) == ("order", "order")


def test_destinations_come_apart_as_they_were_put_together() -> None:
    assert parse_destination(topic_destination("order")) == ("topic", "order")
    assert parse_destination(queue_destination("shop.replies")) == ("queue", "shop.replies")


def test_a_channel_of_which_no_store_could_hold_the_destination_is_refused() -> None:
    assert len(queue_destination("x" * 194)) == len(topic_destination("x" * 194)) == 200
    for name_of in (queue_destination, topic_destination):
        with pytest.raises(ConfigurationError, match="at most 194 characters"):
            name_of("x" * 195)
    with pytest.raises(ConfigurationError, match="at most 194 characters"):
        parse_destination("topic:" + "x" * 195)


@pytest.mark.parametrize("destination", ["order", "exchange:a", "topic:", "queue:*", "topic:a b", ""])
def test_what_is_no_destination_is_refused(destination: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_destination(destination)


@pytest.mark.parametrize("key", ["o-1", "Ärger 🙂", "a\nb", " ", "k" * 512, "é" * 256])
def test_any_text_may_be_a_key(key: str) -> None:
    assert check_key(key, message_type="a.b") == key


@pytest.mark.parametrize("key", ["", "a\0", "\ud800", "k" * 513, "é" * 257])
def test_keys_that_a_store_or_broker_would_change_are_refused(key: str) -> None:
    with pytest.raises(InvalidMessageError, match="its key"):
        check_key(key, message_type="a.b")


def test_a_key_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidMessageError, match="of type int"):
        check_key(1, message_type="a.b")  # type: ignore[arg-type]  # the rule under test


@pytest.mark.parametrize("message_id", ["", "a b", "a\n", "\ud800", "x" * 201])
def test_an_id_that_an_inbox_cannot_hold_is_refused(message_id: str) -> None:
    with pytest.raises(InvalidMessageError, match="its id"):
        check_message_id(message_id, message_type="a.b")


def test_new_ids_differ_and_sort_by_time() -> None:
    ids = [new_message_id() for _ in range(1_000)]

    assert len(set(ids)) == 1_000
    assert ids == sorted(ids)
    assert all(len(one) == 36 and one[14] == "7" for one in ids)


def test_limits_that_refuse_everything_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_body_bytes"):
        Limits(max_body_bytes=0)


def test_keys_are_not_let_grow_beyond_their_column() -> None:
    with pytest.raises(ConfigurationError, match="key columns"):
        Limits(max_key_bytes=513)
