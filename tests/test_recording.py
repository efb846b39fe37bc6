"""What the faults' recording makes of a writer that was killed in mid-write."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.fault.recording import Lines, lines

if TYPE_CHECKING:
    from pathlib import Path

FIRST, SECOND = {"at": 1.5, "of": {"token": "a"}}, {"at": 2.5, "of": {"token": "b"}}


def test_a_line_that_was_cut_off_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "log"
    Lines(path).append(FIRST)
    for cut in range(1, len(json.dumps(FIRST))):
        with path.open("ab") as file:
            file.write(json.dumps(FIRST).encode()[:cut])
        Lines(path).append(SECOND)

        assert lines(path)[-1] == SECOND, f"cut off after {cut} bytes"

    assert lines(path)[0] == FIRST


def test_what_is_no_line_at_all_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"rubbish\n")

    with pytest.raises(json.JSONDecodeError):
        lines(path)
