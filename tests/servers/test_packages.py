"""A missing server is installed where that is possible, else its absence is said clearly; CI does not accept it."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.conftest import skip_or_fail
from tests.processes import REPOSITORY
from tests.servers import PostgresServer, ServerMissingError, packages
from tests.servers.packages import install_packages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def fake_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Put an apt-get that records its calls, and runs a line of shell, in the place of the real one."""
    calls = tmp_path / "calls"
    calls.touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(packages, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(packages, "LOCK", tmp_path / "lock")
    monkeypatch.setattr("os.geteuid", lambda: 0)

    def install(line: str) -> Path:
        program = tmp_path / "apt-get"
        program.write_text(f'#!/bin/sh\necho "$*" >> {calls}\n{line}\n')
        program.chmod(0o755)
        return calls

    packages.refresh_lists.cache_clear()
    yield install
    packages.refresh_lists.cache_clear()


def test_the_lists_are_refreshed_once_and_every_package_installed(fake_apt: Callable[[str], Path]) -> None:
    calls = fake_apt("exit 0")

    install_packages(["one"])
    install_packages(["two", "three"])

    lines = calls.read_text().splitlines()
    assert [line.endswith("update") for line in lines] == [True, False, False]
    assert lines[1].endswith("install --yes --no-install-recommends one")
    assert lines[2].endswith("install --yes --no-install-recommends two three")


def test_an_installed_package_starts_no_service_of_the_system(fake_apt: Callable[[str], Path], tmp_path: Path) -> None:
    fake_apt(f"{tmp_path}/policy-rc.d; echo $? > {tmp_path}/answer")

    install_packages(["one"])

    assert (tmp_path / "answer").read_text().strip() == "101"
    assert not (tmp_path / "policy-rc.d").exists()


def test_processes_install_one_at_a_time(fake_apt: Callable[[str], Path], tmp_path: Path) -> None:
    """Each notes when it is in the program, and finds nobody else there."""
    fake_apt(f"mkdir {tmp_path}/inside || exit 100; sleep 0.05; rmdir {tmp_path}/inside")

    with ThreadPoolExecutor(max_workers=4) as pool:
        for done in [pool.submit(install_packages, ["one"]) for _ in range(4)]:
            done.result()


def test_a_failed_installation_carries_what_apt_said(fake_apt: Callable[[str], Path]) -> None:
    fake_apt("echo 'Unable to locate package' >&2; exit 100")

    with pytest.raises(ServerMissingError, match="Unable to locate package"):
        install_packages(["one"])


def test_without_root_the_command_to_run_is_named(
    fake_apt: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_apt("exit 0")
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    with pytest.raises(ServerMissingError, match="sudo apt-get install postgresql"):
        install_packages(["postgresql"])
    assert calls.read_text() == ""


def test_without_apt_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ServerMissingError, match="no apt-get: install postgresql by hand"):
        install_packages(["postgresql"])


def test_a_missing_server_says_which_one_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PILLARBOX_POSTGRESQL_BIN", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    server = PostgresServer()

    with pytest.raises(ServerMissingError, match="postgresql is not on this machine"), server:
        pass

    assert not server.folder.exists()


@pytest.mark.parametrize("value", ["true", "1", "True"])
def test_in_ci_a_missing_server_is_a_failure(
    value: str, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    monkeypatch.setenv("CI", value)

    with pytest.raises(pytest.fail.Exception, match="in CI every server must be there: no kafka"):
        skip_or_fail(ServerMissingError("no kafka"), pytestconfig)


TESTS = """
import pytest

def test_by_a_fixture(postgresql_url):
    pass

@pytest.mark.parametrize("url", ["postgresql_url", "sqlite_url"])
def test_by_name(url, request):
    request.getfixturevalue(url)

def test_without_a_server():
    pass
"""


def test_on_a_laptop_a_missing_server_is_a_loud_skip(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import *")
    (tmp_path / "test_it.py").write_text(TESTS)

    everything, chosen = (run_tests(tmp_path, *options) for options in ((), ("-m", "not server")))

    assert "2 passed, 2 skipped" in everything
    assert "SERVERS MISSING" in everything
    assert "postgresql is not on this machine" in everything
    assert "2 passed, 2 deselected" in chosen


def run_tests(folder: Path, *options: str) -> str:
    """Run the tests in ``folder`` on a machine without any program, which is not CI."""
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    pytest_command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(REPOSITORY / "pyproject.toml"),
        "-p",
        "no:cacheprovider",
    ]
    return subprocess.run(
        [*pytest_command, f"--confcutdir={folder}", *options, str(folder)],
        cwd=folder,
        env={**environment, "PATH": "/nowhere", "PILLARBOX_POSTGRESQL_BIN": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
