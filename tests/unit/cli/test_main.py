"""The command line as a whole: its list of commands, its errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click import Group

from pillarbox.cli import commands
from tests.unit.cli.conftest import Shell

COMMANDS = {
    "calls",
    "consumers",
    "dead-letters",
    "demo",
    "doctor",
    "explain",
    "flow",
    "gaps",
    "health",
    "held",
    "inbox",
    "migrate",
    "outbox",
    "run",
    "saga",
}


def all_commands(group: Group, *path: str) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found += all_commands(command, *path, name) if isinstance(command, Group) else [(*path, name)]
    return found


def test_alone_it_lists_its_commands_with_one_line_each(pillarbox: Shell) -> None:
    done = pillarbox(store=False)

    listed = done.output.partition("Commands:\n")[2].splitlines()
    assert done.exit_code == 0
    assert {line.split()[0] for line in listed} == COMMANDS
    assert not [line for line in listed if line.endswith("...")]


@pytest.mark.parametrize("path", all_commands(commands), ids=" ".join)
def test_every_command_has_json_and_a_line_of_help(path: tuple[str, ...], pillarbox: Shell) -> None:
    told = pillarbox(*path, "--help", store=False)

    assert told.exit_code == 0
    assert "--json" in told.output
    assert told.output.splitlines()[2].strip()


def test_a_command_without_a_place_says_how_to_name_one(pillarbox: Shell) -> None:
    done = pillarbox("health", store=False)

    assert done.exit_code == 2
    assert "--app module:box, --store URL, or PILLARBOX_STORE" in done.stderr


def test_the_place_may_stand_in_the_environment(pillarbox: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILLARBOX_STORE", pillarbox.url)

    assert pillarbox("outbox", "state", store=False).exit_code == 0


def test_two_places_are_refused(pillarbox: Shell) -> None:
    done = pillarbox("health", "--app", "shop:box")

    assert done.exit_code == 2
    assert "not both" in done.stderr


def test_an_error_is_one_line_on_stderr_and_exit_code_2(pillarbox: Shell) -> None:
    done = pillarbox("dead-letters", "show", "7")

    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: there is no dead letter '7'")
    assert len(done.stderr.splitlines()) == 1


def test_with_json_an_error_is_an_object_on_stdout(pillarbox: Shell) -> None:
    done = pillarbox("dead-letters", "show", "7", "--json")

    assert done.exit_code == 2
    assert done.stderr == ""
    assert json.loads(done.stdout)["error"]["type"] == "NotFoundError"


def test_with_json_a_usage_error_is_an_object_too(pillarbox: Shell) -> None:
    done = pillarbox("inbox", "purge", "--json", "--older-than", "soon")

    assert done.exit_code == 2
    assert "'soon' is no duration" in json.loads(done.stdout)["error"]["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense", "--json"),
        ("outbox", "nonsense", "--json"),
        ("outbox", "--json"),
        ("health", "--nope", "--json"),
        ("dead-letters", "replay", "-1", "--json"),
    ],
    ids=" ".join,
)
def test_with_json_a_mistake_before_the_command_is_read_is_an_object_too(
    arguments: tuple[str, ...], pillarbox: Shell
) -> None:
    done = pillarbox(*arguments, store=False)

    assert (done.exit_code, done.stderr) == (2, "")
    assert json.loads(done.stdout)["error"]["type"] == "UsageError"


def test_of_a_file_that_is_no_database_it_is_not_said_that_it_must_run(tmp_path: Path, pillarbox: Shell) -> None:
    (tmp_path / "notes.txt").write_text("no database" * 100)

    done = pillarbox("health", "--store", f"sqlite:///{tmp_path}/notes.txt", store=False)

    assert done.exit_code == 2
    assert "check that the file is a database" in done.stderr
    assert "check that it runs" not in done.stderr


def test_a_database_file_that_is_not_there_is_not_created(pillarbox: Shell) -> None:
    done = pillarbox("health", "--store", f"{pillarbox.url}-typo", store=False)

    assert done.exit_code == 2
    assert "there is no database file" in done.stderr
    assert pillarbox("health", "--store", f"{pillarbox.url}-typo", store=False).exit_code == 2


def test_a_database_without_tables_says_what_to_do(tmp_path: object, pillarbox: Shell) -> None:
    file = f"{tmp_path}/empty.db"
    open(file, "w").close()

    done = pillarbox("health", "--store", f"sqlite:///{file}", store=False)

    assert done.exit_code == 2
    assert "pillarbox migrate" in done.stderr


def test_a_store_in_memory_is_refused(pillarbox: Shell) -> None:
    done = pillarbox("health", "--store", "memory://", store=False)

    assert done.exit_code == 2
    assert "its own process only" in done.stderr


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://shop:hunter2@127.0.0.1:1/shop",
        "postgresql+asyncpg://shop:hunter2@127.0.0.1:1/shop",
        "nosuch://shop:hunter2@127.0.0.1/shop",
        "postgresql//shop:hunter2@127.0.0.1/shop",
    ],
)
def test_no_error_shows_a_password(url: str, pillarbox: Shell) -> None:
    for options in ((), ("--json",)):
        done = pillarbox("health", "--store", url, *options, store=False)

        assert done.exit_code == 2
        assert "hunter2" not in done.output
        assert "Traceback" not in done.output


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "pillarbox", "--version"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pillarbox ")


@pytest.mark.parametrize("arguments", [["health"], ["dead-letters", "list"], ["health", "--json"]], ids=" ".join)
def test_a_pipe_that_nobody_reads_any_more_is_no_trouble_with_a_server(pillarbox: Shell, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "pillarbox", *arguments, "--store", pillarbox.url]

    with open(writing, "wb") as nobody:
        done = subprocess.run(command, stdout=nobody, stderr=subprocess.PIPE, text=True, check=False)

    assert (done.returncode, done.stderr) == (1, "")
