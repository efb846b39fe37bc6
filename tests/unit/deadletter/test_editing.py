"""Patches of bodies, and what they changed."""

import pytest
from msgspec.structs import replace

from pillarbox.deadletter.editing import Change, differences, patched
from pillarbox.errors import DecodeError
from tests.messages import message


@pytest.mark.parametrize(
    ("body", "patch", "expected"),
    [
        (b'{"a":1,"b":2}', {"a": 3}, b'{"a":3,"b":2}'),
        (b'{"a":1,"b":2}', {"b": None}, b'{"a":1}'),
        (b'{"a":{"b":1,"c":2}}', {"a": {"c": 3}}, b'{"a":{"b":1,"c":3}}'),
        (b'{"a":[1,2]}', {"a": [3]}, b'{"a":[3]}'),
        (b'{"a":1}', {"b": {"c": None, "d": 1}}, b'{"a":1,"b":{"d":1}}'),
        (b"7", {"a": 1}, b'{"a":1}'),
    ],
)
def test_a_patch_is_merged_as_rfc_7396_says(body: bytes, patch: dict[str, object], expected: bytes) -> None:
    assert patched(replace(message("m"), body=body), patch) == expected


@pytest.mark.parametrize("body", [b"\xff", b"{", b""])
def test_what_is_no_json_takes_no_patch(body: bytes) -> None:
    with pytest.raises(DecodeError, match="whole body"):
        patched(replace(message("m"), body=body), {})


def test_differences_name_their_places() -> None:
    before = b'{"a":1,"lines":[{"price":1},{"price":2}],"x/y":1,"gone":null}'
    after = b'{"a":1,"lines":[{"price":1},{"price":"2"},3],"x/y":2}'

    assert differences(before, after) == (
        Change(path="/lines/1/price", before="2", after='"2"'),
        Change(path="/lines/2", after="3"),
        Change(path="/x~1y", before="1", after="2"),
        Change(path="/gone", before="null"),
    )


def test_true_and_one_differ() -> None:
    assert differences(b"[1]", b"[true]") == (Change(path="/0", before="1", after="true"),)


@pytest.mark.parametrize(("before", "after"), [(b"\xff", b"{}"), (b"{}", b"{"), (b'{"a":1}', b'{ "a" : 1 }')])
def test_what_cannot_be_compared_or_says_the_same_differs_nowhere(before: bytes, after: bytes) -> None:
    assert differences(before, after) == ()
