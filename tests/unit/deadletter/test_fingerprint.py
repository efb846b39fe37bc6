"""Failures of one cause have one fingerprint."""

from collections.abc import Callable

import pytest

from pillarbox.deadletter import fingerprint_of, stack_of
from pillarbox.deadletter.record import MAX_STACK_CHARS


def _charge(text: str) -> None:
    raise ValueError(text)


def _refund(text: str) -> None:
    raise ValueError(text)


def _lookup(text: str) -> None:
    raise KeyError(text)


def _failure(text: str, *, by: Callable[[str], None] = _charge) -> Exception:
    try:
        by(text)
    except Exception as error:
        return error
    raise AssertionError


def _fingerprint(text: str, *, by: Callable[[str], None] = _charge, kind: str = "order.placed") -> str:
    return fingerprint_of(_failure(text, by=by), kind)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("order 17 has no stock", "order 4711 has no stock"),
        ("at 0x7fe0a1 failed", "at 0x7fffff failed"),
        ("2026-01-02T03:04:05", "1999-12-31T23:59:59"),
    ],
)
def test_numbers_do_not_tell_failures_apart(text: str, other: str) -> None:
    assert _fingerprint(text) == _fingerprint(other)


def test_a_text_of_another_meaning_does() -> None:
    assert _fingerprint("no stock") != _fingerprint("no money")


def test_so_does_the_place_where_it_was_raised() -> None:
    assert _fingerprint("x") != _fingerprint("x", by=_refund)


def test_so_does_the_class() -> None:
    assert _fingerprint("x") != _fingerprint("x", by=_lookup)


def test_so_does_the_type_of_the_message() -> None:
    assert _fingerprint("x") != _fingerprint("x", kind="order.shipped")


def test_it_is_short_text_the_same_in_every_process() -> None:
    assert fingerprint_of(ValueError("o-1"), "order.placed") == fingerprint_of(ValueError("o-2"), "order.placed")
    assert fingerprint_of(ValueError("o-1"), "order.placed") == "91315096e143c658"


def test_an_error_without_a_stack_or_with_odd_text_has_one_too() -> None:
    assert len(fingerprint_of(ValueError("\ud800"), "order.placed")) == 16


def test_of_a_stack_that_is_too_long_the_end_is_kept() -> None:
    stack = stack_of(_failure("x" * (MAX_STACK_CHARS + 100) + "the end"))

    assert len(stack) == MAX_STACK_CHARS
    assert stack.rstrip().endswith("the end")
