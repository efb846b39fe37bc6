"""The generated pages of the reference say what the code says, and the words of the glossary are kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from scripts.reference import PAGES as GENERATED
from tests.architecture.tree import PACKAGE, ROOT
from tests.docs.pages import DOCS
from tests.docs.pages import PAGES as ALL_PAGES

if TYPE_CHECKING:
    from pathlib import Path

GLOSSARY = DOCS / "reference" / "glossary.md"


@pytest.mark.parametrize(("name", "page"), GENERATED.items(), ids=GENERATED)
def test_a_generated_page_is_up_to_date(name: str, page: Callable[[], str]) -> None:
    written = (DOCS / "reference" / name).read_text(encoding="utf-8")

    assert written == page(), "run: .venv/bin/python scripts/reference.py"


def banned() -> list[str]:
    """Return the words of the glossary's last column."""
    rows = re.findall(r"^\|.*\|([^|]*)\|$", GLOSSARY.read_text(encoding="utf-8"), re.MULTILINE)[2:]
    return [word.strip() for row in rows for word in row.split(",") if word.strip()]


def sources() -> list[Path]:
    return [path for path in [*PACKAGE.rglob("*.py"), *ALL_PAGES] if path != GLOSSARY]


def test_no_page_and_no_module_uses_a_word_that_the_glossary_replaces() -> None:
    words = banned()
    pattern = re.compile(r"\b(" + "|".join(re.escape(word) for word in words) + r")\b", re.IGNORECASE)

    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in sources()
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
    ]

    assert words
    assert found == []
