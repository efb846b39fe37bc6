"""Reads the fenced blocks out of the documentation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.architecture.tree import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "ARCHITECTURE.md", *DOCS.rglob("*.md"), *(ROOT / "examples").glob("*.md")])
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^`]*$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, the line that its text begins on, and the text."""

    language: str
    line: int
    text: str


def name_of(page: Path) -> str:
    """Return the page's path in the repository; the name of its tests."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    blocks: list[Block] = []
    language, begin, body = None, 0, list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if fence is None:
            body.append(line)
        elif language is None:
            language, begin, body = fence["language"], number + 1, []
        else:
            blocks.append(Block(language, begin, "\n".join(body) + "\n"))
            language = None
    assert language is None, f"{name_of(page)}: the block that begins on line {begin} has no end"
    return blocks


def prose_of(page: Path) -> str:
    """Return a page without its fenced blocks."""
    kept: list[str] = []
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept)
