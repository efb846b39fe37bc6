"""What goes ahead to partitions that do not know the producer yet."""

from __future__ import annotations

from collections.abc import Sequence

from pillarbox.brokers.kafka.introductions import KEYS_AT_MOST, KNOWN_FOR_S, Introductions
from pillarbox.message import Message

ORDERS = "topic:order"


def batch(keys: Sequence[str | None], channel: str = ORDERS) -> list[Message]:
    return [
        Message(id=f"m{number}", type="t", destination=channel, key=key, content_type="", headers={}, body=b"")
        for number, key in enumerate(keys)
    ]


def divided(
    introductions: Introductions, messages: Sequence[Message], *, size: int = 2, now: float = 0.0
) -> tuple[list[int], list[int]]:
    return introductions.divide(messages, size_of=lambda _: size, now=now)


def with_partitions(*partitions: int, size: int = 2) -> Introductions:
    introductions = Introductions()
    divided(introductions, batch("xy"), size=size)
    for partition in partitions:
        introductions.note(batch([f"of {partition}"])[0], partition)
    return introductions


def test_one_message_of_each_key_goes_ahead() -> None:
    assert divided(Introductions(), batch("abacb")) == ([0, 1, 3], [2, 4])


def test_a_message_without_a_key_is_behind_nothing() -> None:
    assert divided(Introductions(), batch([None, None, "a", "a"])) == ([0, 1, 2], [3])


def test_the_same_key_on_another_topic_goes_ahead_too() -> None:
    messages = [*batch("aa"), *batch("aa", "topic:payment")]

    assert divided(Introductions(), messages) == ([0, 2], [1, 3])


def test_a_single_message_asks_for_nothing() -> None:
    def refuse(_: str) -> int:
        raise AssertionError("it asked")

    assert Introductions().divide(batch("a"), size_of=refuse, now=0.0) == ([], [0])


def test_a_key_of_which_a_message_is_stored_waits_no_more() -> None:
    introductions = with_partitions(0)
    introductions.note(batch("a")[0], 0)

    assert divided(introductions, batch("aabb")) == ([2], [0, 1, 3])


def test_where_all_partitions_are_known_nothing_goes_ahead() -> None:
    assert divided(with_partitions(0, 1), batch("abab")) == ([], [0, 1, 2, 3])


def test_a_topic_whose_size_is_not_told_is_asked_for_again() -> None:
    introductions = with_partitions(0, 1, size=0)

    assert divided(introductions, batch("aa"), size=0) == ([0], [1])
    introductions.note(batch("a")[0], 0)
    assert divided(introductions, batch("bb"), size=1) == ([0], [1])
    introductions.note(batch("b")[0], 0)
    assert divided(introductions, batch("cc"), size=0) == ([], [0, 1])


def test_partitions_are_introduced_anew_before_servers_forget_the_producer() -> None:
    introductions = with_partitions(0, 1)

    assert divided(introductions, batch("aa"), now=KNOWN_FOR_S) == ([], [0, 1])
    assert divided(introductions, batch("aa"), now=KNOWN_FOR_S + 1) == ([0], [1])


def test_keys_are_forgotten_where_there_are_too_many() -> None:
    introductions = with_partitions(0)
    for message in batch([f"k{number}" for number in range(KEYS_AT_MOST)]):
        introductions.note(message, 0)

    ahead, behind = divided(introductions, batch(["k0", "k0", f"k{KEYS_AT_MOST - 1}"]))

    assert (ahead, behind) == ([0], [1, 2])
