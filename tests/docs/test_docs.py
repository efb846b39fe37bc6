"""Every program in the documentation runs and prints what the page says.

The Python blocks of a page are one program, run from top to bottom; its line numbers are the page's. An ``output``
block is compared with what the program printed since the last one; ``…`` stands for anything. A page that speaks of the
database ``app@localhost/shop`` gets a fresh PostgreSQL database in its place, one that speaks of a broker's usual
port on ``localhost`` such a broker of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from tests.docs.pages import PAGES, blocks_of, name_of

if TYPE_CHECKING:
    from pathlib import Path


DATABASE = "app@localhost/shop"
PROGRAMS = [page for page in PAGES if any(block.language == "python" for block in blocks_of(page))]
ON_POSTGRESQL = [page for page in PROGRAMS if DATABASE in page.read_text(encoding="utf-8")]
BROKERS = {
    "localhost:6379": "redis",
    "localhost:4222": "nats",
    "localhost:9092": "kafka",
    "localhost:5672": "rabbitmq",
}
ON_BROKER = [
    pytest.param(page, place, id=f"{name_of(page)}-{BROKERS[place]}")
    for page in PROGRAMS
    for place in BROKERS
    if place in page.read_text(encoding="utf-8")
]
ANYWHERE = [page for page in PROGRAMS if not any(place in page.read_text("utf-8") for place in (DATABASE, *BROKERS))]
KNOWN_LANGUAGES = {"python", "output", "sh", "mermaid", "sql", "text"}
MARK = "\x1e"
LONGEST_S = 120


def matches(expected: str, printed: str) -> bool:
    """Tell whether a program printed what a page says."""
    pattern = re.escape(expected.strip()).replace("…", ".*")
    return re.fullmatch(pattern, printed.strip()) is not None


def program_of(page: Path) -> str:
    """Return the program of a page; where an output is expected it prints a mark."""
    lines = [""] * len(page.read_text(encoding="utf-8").splitlines())
    for block in blocks_of(page):
        if block.language == "python":
            text = block.text.splitlines()
            lines[block.line - 1 : block.line - 1 + len(text)] = text
        elif block.language == "output":
            lines[block.line - 1] = f"print({MARK!r}, end='', flush=True)"
    return "\n".join(lines) + "\n"


def check(page: Path, printed: str) -> None:
    outputs = [block for block in blocks_of(page) if block.language == "output"]
    for block, part in zip(outputs, printed.split(MARK), strict=False):
        place = f"{name_of(page)}:{block.line}"
        assert matches(block.text, part), f"{place}: the program printed\n{part}\nthe page says\n{block.text}"


@pytest.mark.parametrize("page", ANYWHERE, ids=name_of)
def test_a_page_s_program_runs_and_prints_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up

    exec(compile(program_of(page), name_of(page), "exec"), module.__dict__)

    check(page, capsys.readouterr().out)


@pytest.mark.parametrize("page", ON_POSTGRESQL, ids=name_of)
def test_a_page_s_program_runs_on_postgresql(page: Path, tmp_path: Path, postgresql_url: str) -> None:
    run(page, tmp_path, DATABASE, postgresql_url.partition("://")[2])


@pytest.mark.parametrize(("page", "place"), ON_BROKER)
def test_a_page_s_program_runs_on_its_broker(
    page: Path, place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue(f"private_{BROKERS[place]}_server")
    run(page, tmp_path, place, f"127.0.0.1:{server.port}")


def run(page: Path, tmp_path: Path, place: str, real: str) -> None:
    """Run a page's program with the ``real`` server where it names ``place``."""
    script = tmp_path / f"program_of_{page.stem}.py"  # not the name of a library
    script.write_text(program_of(page).replace(place, real), encoding="utf-8")

    done = subprocess.run(  # in a process of its own: it may set up Django
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    check(page, done.stdout)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_which_language_it_is(page: Path) -> None:
    unknown = [(block.line, block.language) for block in blocks_of(page) if block.language not in KNOWN_LANGUAGES]

    assert unknown == []
