"""The number that a message bears."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from pillarbox.message import Message, Number, number_of
from tests.messages import message as plain


def message(*, headers: dict[str, str]) -> Message:
    return replace(plain(), headers=headers)


def test_a_number_travels_in_headers() -> None:
    numbered = message(headers=Number(7, 12).headers)

    assert number_of(numbered) == Number(7, 12)


def test_an_epoch_that_is_left_out_is_0() -> None:
    assert number_of(message(headers={"sequence": "12"})) == Number(0, 12)


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "one", "１", "1" * 19, " 1"])
def test_what_is_no_number_is_none(text: str) -> None:
    assert number_of(message(headers={"sequence": text})) is None
    assert text == "0" or number_of(message(headers={"sequence": "1", "sequenceepoch": text})) is None


def test_a_message_without_one_has_none() -> None:
    assert number_of(message(headers={})) is None


def test_a_later_epoch_comes_later() -> None:
    assert Number(1, 99) < Number(2, 1)
