"""Every command that the documentation shows exists, with the options shown."""

from __future__ import annotations

import re
import shlex
import tomllib

import click
import pytest

from pillarbox.cli.main import commands
from tests.architecture.tree import ROOT
from tests.docs.pages import PAGES, blocks_of, name_of

VERBS = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ASSIGNMENT = re.compile(r"[A-Z_]+=.*")
LINES = [
    (f"{name_of(page)}:{block.line + number}", line)
    for page in PAGES
    for block in blocks_of(page)
    if block.language == "sh"
    for number, line in enumerate(block.text.replace("\\\n", " ").splitlines())
    if line.partition("#")[0].strip()
]


def problem_of(words: list[str]) -> str | None:
    """Return what is wrong with a command, ``None`` if it exists."""
    match words:
        case ["make", verb, *_]:
            return None if verb in VERBS else f"make has no verb {verb!r}"
        case ["pip", "install", *packages]:
            return next((problem for package in packages if (problem := _problem_of_package(package))), None)
        case ["python", script, *_]:
            return None if (ROOT / script).is_file() else f"there is no {script}"
        case ["pillarbox", *rest]:
            return _problem_of_verb(rest)
        case ["export", *_]:
            return None
        case _:
            return f"nobody knows {words[0]!r}; use make, pip, python, pillarbox or export"


def _problem_of_package(package: str) -> str | None:
    name, _, extras = package.rstrip("]").partition("[")
    if name.startswith("-"):
        return None
    unknown = [extra for extra in extras.split(",") if extra and extra not in PROJECT["optional-dependencies"]]
    return f"there is no {package}" if name != PROJECT["name"] or unknown else None


def _problem_of_verb(words: list[str]) -> str | None:
    command: click.Command = commands
    context = click.Context(command, info_name="pillarbox")
    rest = words
    while isinstance(command, click.Group) and rest:
        if rest[0].startswith("-"):
            break
        found = command.get_command(context, rest[0])
        if found is None:
            return f"{context.command_path} has no verb {rest[0]!r}"
        command, rest = found, rest[1:]
        context = click.Context(command, info_name=found.name, parent=context)
    options = {name for parameter in command.get_params(context) for name in parameter.opts + parameter.secondary_opts}
    unknown = [word for word in rest if word.startswith("--") and word.partition("=")[0] not in options]
    return f"{context.command_path} has no option {', '.join(unknown)}" if unknown else None


@pytest.mark.parametrize(("place", "line"), LINES, ids=[place for place, _ in LINES])
def test_a_command_that_is_shown_exists(place: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    while words and ASSIGNMENT.fullmatch(words[0]):
        words = words[1:]

    problem = problem_of(words)

    assert problem is None, f"{place}: {problem}"
