"""What is read of PostgreSQL's slots."""

from __future__ import annotations

import pytest

from pillarbox.stores.postgresql.slots import readable


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("39723:39722:", "39723:39723:"),
        ("10:20:12,15", "10:20:12,15"),
        ("7:7:", "7:7:"),
        ("9:10:9", "9:10:9"),
    ],
)
def test_a_snapshot_that_ends_before_it_begins_is_made_readable(written: str, read: str) -> None:
    assert readable(written) == read
