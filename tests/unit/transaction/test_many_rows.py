"""Rows are put into as few statements as a server takes."""

from __future__ import annotations

from pillarbox.transaction.many_rows import BYTES_AT_MOST, ROWS_AT_MOST, in_parts


def sizes_of(*bodies: bytes | str | None) -> list[int]:
    return [len(part) for part in in_parts([{"body": body, "slot": 7} for body in bodies])]


def test_parts_keep_every_row_in_its_order() -> None:
    rows = [{"id": number} for number in range(2 * ROWS_AT_MOST + 1)]

    parts = list(in_parts(rows))

    assert [row for part in parts for row in part] == rows
    assert [len(part) for part in parts] == [ROWS_AT_MOST, ROWS_AT_MOST, 1]


def test_a_part_is_no_larger_than_a_packet_unless_one_row_is() -> None:
    half, too_large = b"x" * (BYTES_AT_MOST // 2), "x" * (2 * BYTES_AT_MOST)

    assert sizes_of(half, half, b"1", None) == [2, 2]
    assert sizes_of(b"1", too_large, b"1") == [1, 1, 1]
    assert sizes_of() == []
