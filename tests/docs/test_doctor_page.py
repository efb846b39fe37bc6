"""The page about the doctor names every finding that there is."""

from __future__ import annotations

import re

from tests.architecture.tree import PACKAGE
from tests.docs.pages import DOCS

MADE = re.compile(r"""\b(?:problem|well|_finding)\(\s*"([a-z-]+)"|\bcode="([a-z-]+)\"""")


def test_every_code_of_a_finding_is_on_the_page() -> None:
    page = (DOCS / "how-to" / "doctor.md").read_text(encoding="utf-8")
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    codes = {code for source in sources for pair in MADE.findall(source) for code in pair if code}

    assert len(codes) > 20
    assert sorted(code for code in codes if f"`{code}`" not in page) == []
