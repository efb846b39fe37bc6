"""The examples run as they are, each in a process of its own, and print what their README says."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.architecture.tree import ROOT
from tests.docs.pages import blocks_of
from tests.docs.test_docs import matches

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LONGEST = 100


def said_by_the_readme() -> dict[str, str]:
    """Return what the README says that each example prints."""
    said: dict[str, str] = {}
    script = None
    for block in blocks_of(ROOT / "examples" / "README.md"):
        if block.language == "sh" and (command := re.fullmatch(r"python examples/(\S+)\n", block.text)):
            script = command[1]
        elif block.language == "output" and script is not None:
            said[script] = block.text
    return said


def test_every_example_is_in_the_readme() -> None:
    assert sorted(said_by_the_readme()) == [example.name for example in EXAMPLES]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_prints_what_the_readme_says(example: Path, tmp_path: Path) -> None:
    expected = said_by_the_readme()[example.name]

    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert matches(expected, done.stdout), f"it printed\n{done.stdout}\nthe README says\n{expected}"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_numbered(example: Path) -> None:
    lines = example.read_text(encoding="utf-8").splitlines()

    assert len(lines) <= LONGEST
    assert re.fullmatch(r"\d\d-[a-z-]+\.py", example.name)
