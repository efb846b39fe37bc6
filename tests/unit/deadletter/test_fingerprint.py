"""Failures of one cause have one fingerprint."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from pillarbox.deadletter import fingerprint_of, stack_of
from pillarbox.deadletter.fingerprint import MAX_STACK_CHARS, UNTOLD
from pillarbox.errors import DecodeError
from pillarbox.serialization import JsonCodec

SECRET = "hunter2"


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


def test_failures_at_the_same_place_are_of_one_cause_whatever_they_say() -> None:
    assert _fingerprint("order 17 has no stock") == _fingerprint("order 4711 is unknown")


def test_the_place_where_it_was_raised_tells_causes_apart() -> None:
    assert _fingerprint("x") != _fingerprint("x", by=_refund)


def test_so_does_the_class() -> None:
    assert _fingerprint("x") != _fingerprint("x", by=_lookup)


def test_so_does_the_type_of_the_message() -> None:
    assert _fingerprint("x") != _fingerprint("x", kind="order.shipped")


def test_frames_of_python_and_of_libraries_do_not() -> None:
    def within_libraries(text: str) -> None:
        msgspec.json.decode(json.dumps(json.loads(text)))
        raise ValueError(text)

    def alone(text: str) -> None:
        raise ValueError(text)

    alone.__code__ = alone.__code__.replace(co_qualname=within_libraries.__code__.co_qualname)

    assert _fingerprint("1", by=within_libraries) == _fingerprint("1", by=alone)


def test_the_package_of_the_handler_is_the_application_where_it_is_installed_too() -> None:
    at, other = _installed("shop.orders", "charge"), _installed("shop.orders", "refund")
    anna, bert = at("no customer 'anna'"), at("no customer 'bert'")

    assert fingerprint_of(anna, "a", package="shop") == fingerprint_of(bert, "a", package="shop")
    assert fingerprint_of(at("x"), "a", package="shop") != fingerprint_of(other("x"), "a", package="shop")


def test_other_installed_packages_are_not_the_application() -> None:
    at, other = _installed("shopping.cart", "add"), _installed("shopping.cart", "drop")

    assert fingerprint_of(at("x"), "a", package="shop") == fingerprint_of(other("x"), "a", package="shop")


def test_a_handler_of_ours_does_not_make_our_frames_the_application() -> None:
    at, other = _installed("pillarbox.saga", "start"), _installed("pillarbox.saga", "reply")

    assert fingerprint_of(at("x"), "a", package="pillarbox") == fingerprint_of(other("x"), "a", package="pillarbox")


def _installed(module: str, function: str) -> Callable[[str], Exception]:
    """Return what fails in ``function`` of a module that lies where ``pip install`` puts it."""
    source = f"def {function}(text):\n    raise ValueError(text)\n"
    names: dict[str, Any] = {"__name__": module}
    exec(compile(source, f"/usr/lib/site-packages/{module.replace('.', '/')}.py", "exec"), names)

    def fail(text: str) -> Exception:
        error = _failure(text, by=names[function])
        assert error.__traceback__ is not None
        return error.with_traceback(error.__traceback__.tb_next)  # without this file's own frame

    return fail


def test_how_often_a_function_called_itself_does_not() -> None:
    def dig(depth: str) -> None:
        if not int(depth):
            raise ValueError("deep")
        dig(str(int(depth) - 1))

    assert _fingerprint("20", by=dig) == _fingerprint("40", by=dig)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("order 17 has no stock", "order 4711 has no stock"),
        ("at 0x7fe0a1 failed", "at 0x7fffff failed"),
        ("2026-01-02T03:04:05", "1999-12-31T23:59:59"),
        ("no 018f4d2e-7c1a-7b3c-9d2e-5f6a7b8c9d0e", "no 018f4d2e-0000-7b3c-9d2e-5f6a7b8c9d0f"),
        ("commit deadbeef01 is gone", "commit 01cafebabe is gone"),
    ],
)
def test_without_frames_of_the_application_the_text_tells_without_its_numbers_and_ids(text: str, other: str) -> None:
    assert fingerprint_of(ValueError(text), "a") == fingerprint_of(ValueError(other), "a")
    assert fingerprint_of(ValueError(text), "a") != fingerprint_of(ValueError("something else"), "a")


def test_it_is_short_text_the_same_in_every_process() -> None:
    assert fingerprint_of(ValueError("o-1"), "order.placed") == "91315096e143c658"


def test_an_error_without_a_stack_or_with_odd_text_has_one_too() -> None:
    assert len(fingerprint_of(ValueError("\ud800"), "order.placed")) == 16


def test_the_hook_sees_the_whole_stack_before_it_is_cut() -> None:
    stack = stack_of(_failure("s3cret" + "x" * MAX_STACK_CHARS), lambda text: text.replace("s3cret", "*"))

    assert "s3cret" not in stack
    assert "cret" not in stack


def test_of_a_stack_that_is_too_long_the_end_is_kept() -> None:
    stack = stack_of(_failure("x" * (MAX_STACK_CHARS + 100) + "the end"))

    assert len(stack) == MAX_STACK_CHARS
    assert stack.rstrip().endswith("the end")


def test_the_stack_of_an_unreadable_body_has_the_frames_of_its_cause_without_what_that_quotes() -> None:
    class Checked(BaseModel):
        token: int

    with pytest.raises(DecodeError) as caught:
        JsonCodec().decode(json.dumps({"token": SECRET}).encode(), Checked)

    stack = stack_of(caught.value)
    assert SECRET in str(caught.value.__cause__)
    assert SECRET not in stack
    assert "in decode" in stack.partition(f"ValidationError: {UNTOLD}")[0]
    assert stack.rstrip().endswith(str(caught.value))


def test_what_cannot_be_read_has_a_fingerprint_and_a_stack() -> None:
    class UnreadableError(Exception):
        def __str__(self) -> str:
            raise KeyError("text")

        @property
        def __notes__(self) -> list[str]:
            raise KeyError("notes")

    error = UnreadableError()

    assert fingerprint_of(error, "order.placed") == fingerprint_of(UnreadableError(), "order.placed")
    assert "UnreadableError: <" in stack_of(error), "what stands there instead is up to the version of Python"
