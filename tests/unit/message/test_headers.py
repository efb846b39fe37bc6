"""Rules of headers."""

from __future__ import annotations

import pytest

from pillarbox.errors import InvalidMessageError
from pillarbox.message import Limits
from pillarbox.message.headers import RESERVED, check_header_values, check_user_headers

LIMITS = Limits(max_header_value_bytes=10, max_headers_bytes=40)


@pytest.mark.parametrize("name", ["tenant", "x-tenant.id_1", "0", "n" * 64])
def test_plain_header_names_are_let_through(name: str) -> None:
    check_user_headers({name: ""}, message_type="a.b")


@pytest.mark.parametrize("name", ["", "Tenant", "a b", "a:b", "a\r\nb", "-a", "n" * 65, "ä"])
def test_other_header_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidMessageError, match="not valid"):
        check_user_headers({name: ""}, message_type="a.b")


@pytest.mark.parametrize("name", [*sorted(RESERVED), "ce_id", "ce-id", "pillarbox-x"])
def test_reserved_header_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidMessageError, match="reserved"):
        check_user_headers({name: ""}, message_type="a.b")


@pytest.mark.parametrize(
    "headers", ["tenant", ["tenant"], [("tenant", "north")], {1: "north"}, {None: ""}, {b"a": ""}, 5]
)
def test_what_is_no_mapping_of_texts_is_refused(headers: object) -> None:
    with pytest.raises(InvalidMessageError, match="no mapping of texts"):
        check_user_headers(headers, message_type="a.b")  # type: ignore[arg-type]  # the rule under test


@pytest.mark.parametrize("value", ["", "a b", "ä🙂", "x" * 10])
def test_texts_are_let_through(value: str) -> None:
    check_header_values({"a": value}, message_type="a.b", limits=LIMITS)


@pytest.mark.parametrize("value", ["a\r\nb", "\n", "\t", "\0", "\x7f", "\x85", "\ud800", 3, None])
def test_values_that_could_break_out_of_a_header_are_refused(value: object) -> None:
    headers = {"a": value}

    with pytest.raises(InvalidMessageError, match="header 'a'"):
        check_header_values(headers, message_type="a.b", limits=LIMITS)  # type: ignore[arg-type]  # the rule under test


@pytest.mark.parametrize("value", ["x" * 11, "é" * 6])
def test_a_value_that_is_too_long_is_refused(value: str) -> None:
    with pytest.raises(InvalidMessageError, match="at most 10"):
        check_header_values({"a": value}, message_type="a.b", limits=LIMITS)


def test_headers_that_are_too_large_together_are_refused() -> None:
    with pytest.raises(InvalidMessageError, match="at most 40"):
        check_header_values({str(n): "x" * 10 for n in range(4)}, message_type="a.b", limits=LIMITS)
