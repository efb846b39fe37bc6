"""What the documentation refers to is there: links, files, and the tests that hold each promise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT
from tests.docs.pages import DOCS, PAGES, name_of, prose_of

TEST = re.compile(r"`((?:tests|src/pillarbox/testing)/[\w/]+\.py)(?:::(\w+))?`")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
OUTSIDE = [page for page in PAGES if DOCS not in page.parents]  # mkdocs checks the links of the others


def missing_tests(page: Path) -> list[str]:
    missing: list[str] = []
    for path, test in TEST.findall(page.read_text(encoding="utf-8")):
        file = ROOT / path
        if not file.is_file():
            missing.append(path)
        elif test and not re.search(rf"^ *(?:async )?(?:def|class) {test}\b", file.read_text(encoding="utf-8"), re.M):
            missing.append(f"{path}::{test}")
    return missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    assert missing_tests(page) == []


@pytest.mark.parametrize("page", OUTSIDE, ids=name_of)
def test_every_file_that_a_page_outside_docs_links_to_exists(page: Path) -> None:
    targets = [target for target in LINK.findall(prose_of(page)) if "://" not in target]

    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "scripts" / "mkdocs.yml").read_text(encoding="utf-8")

    missing = [page for path in DOCS.rglob("*.md") if (page := path.relative_to(DOCS).as_posix()) not in navigation]

    assert missing == []


def test_every_promise_of_the_guarantees_names_its_test() -> None:
    text = (DOCS / "explanation" / "guarantees.md").read_text(encoding="utf-8")
    promises = re.split(r"^### ", text.partition("## What is not promised")[0], flags=re.MULTILINE)[1:]

    assert len(promises) >= 5
    assert [promise.partition("\n")[0] for promise in promises if not TEST.search(promise)] == []
