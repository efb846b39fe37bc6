"""Rules of names, keys and headers that hold for whatever Hypothesis comes up with."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.errors import ConfigurationError, InvalidMessageError
from pillarbox.message import Limits, check_name
from pillarbox.message.headers import check_header_values, check_user_headers
from pillarbox.message.names import check_key

ALLOWED = set(string.ascii_lowercase + string.digits + "_.-")
STRANGERS = st.characters().filter(lambda character: character not in ALLOWED) | st.sampled_from("*># \t\r\n\0/+:$")


@given(st.text(st.sampled_from(sorted(ALLOWED)), max_size=10), STRANGERS, st.text(max_size=10))
def test_one_character_outside_the_allow_list_spoils_a_name(before: str, stranger: str, after: str) -> None:
    with pytest.raises(ConfigurationError):
        check_name(before + stranger + after, what="topic")
    with pytest.raises(InvalidMessageError):
        check_user_headers({before + stranger + after: ""}, message_type="a.b")


@given(st.text(st.characters(), max_size=300))
def test_a_name_that_is_let_through_has_only_harmless_characters(text: str) -> None:
    try:
        check_name(text, what="topic")
    except ConfigurationError:
        return
    assert set(text) <= ALLOWED
    assert 1 <= len(text) <= 200


@given(st.text(st.characters(), max_size=600))
def test_a_key_that_is_let_through_fits_its_column(key: str) -> None:
    try:
        check_key(key, message_type="a.b")
    except InvalidMessageError:
        return
    assert 1 <= len(key.encode()) <= 512
    assert "\0" not in key


@given(st.dictionaries(st.text(st.sampled_from(sorted(ALLOWED)), max_size=5), st.text(st.characters()), max_size=5))
def test_headers_that_are_let_through_keep_to_their_limits(headers: dict[str, str]) -> None:
    limits = Limits(max_header_value_bytes=20, max_headers_bytes=60)
    try:
        check_header_values(headers, message_type="a.b", limits=limits)
    except InvalidMessageError:
        return
    sizes = [(len(name), len(value.encode())) for name, value in headers.items()]
    assert all(value <= 20 for _, value in sizes)
    assert sum(name + value for name, value in sizes) <= 60
    assert not any(
        ord(character) < 32 or 127 <= ord(character) < 160 for value in headers.values() for character in value
    )
