"""Other versions will do: the oldest ones of our dependencies that are allowed, and newer ones of Python."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from benchmarks.interpreters import interpreter_of
from tests.processes import REPOSITORY
from tests.servers.packages import one_at_a_time

UNIT = ("--hypothesis-profile=quick", "tests/unit")
WITH_OLDEST = {
    "unit": UNIT,
    "transactions": ("tests/integration/test_direct_transactions.py",),
    "mariadb": ("tests/contract/test_outbox_store.py", "tests/contract/test_saga_store.py", "-k", "mariadb"),
    "brokers": ("tests/contract/test_brokers.py", "-k", "redis or nats or rabbitmq"),
    "kafka": ("tests/contract/test_brokers.py", "-k", "kafka"),
}
ON_NEWER = {
    "unit": UNIT,
    "transactions": ("tests/integration/test_transactions.py", "tests/integration/test_direct_transactions.py"),
    "cancellation": (  # psycopg 3.3, cancelled as it enters a pipeline, raises an AssertionError instead, now and then
        "tests/simulation/test_cancellation.py",
        "tests/integration/test_stray_cancellations.py",
        "-k",
        "not psycopg",
    ),
}
TOOLS = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis", "cloudevents")
WITHIN_S = 280

PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
MINORS = [int(one.rpartition(".")[2]) for one in PROJECT["classifiers"] if "Python :: 3." in one]
NEWER = [minor for minor in MINORS if minor > sys.version_info.minor]
NEWEST = max((minor for minor in NEWER if interpreter_of(minor) is not None), default=max(NEWER, default=0))
"""The one on which the unit tests run, too: they are many, and what they would find differs little between the two."""


@pytest.mark.server
@pytest.mark.parametrize("work", WITH_OLDEST)
def test_with_the_oldest_versions_that_are_allowed(work: str) -> None:
    _run(_with_oldest(), WITH_OLDEST[work])


@pytest.mark.server
@pytest.mark.parametrize(
    ("minor", "work"), [(minor, work) for minor in NEWER for work in ON_NEWER if work != "unit" or minor == NEWEST]
)
def test_on_a_newer_python(minor: int, work: str) -> None:
    interpreter = interpreter_of(minor)
    if interpreter is None:
        pytest.skip(f"there is no Python 3.{minor} on this machine")

    _run(_with_newest(interpreter), ON_NEWER[work])


def _run(python: Path, work: tuple[str, ...]) -> None:
    done = subprocess.run(
        [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *work],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )

    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]


@cache
def _with_oldest() -> Path:
    """Return the Python of an environment with the oldest versions."""
    extras = [name for name in PROJECT["optional-dependencies"] if name != "all"]
    ours = ("pip", "install", "--resolution", "lowest-direct", "--editable", f".[{','.join(extras)}]")
    return _environment("oldest", sys.executable, ours, ("pip", "install", *TOOLS))


@cache
def _with_newest(interpreter: str) -> Path:
    """Return the Python of an environment on ``interpreter``, with what the lock names."""
    return _environment("newest", interpreter, ("sync", "--frozen", "--all-extras"))


def _environment(name: str, interpreter: str, *installs: tuple[str, ...]) -> Path:
    """Return the Python of an environment, which is made when it is first asked for."""
    demands = [PROJECT["dependencies"], PROJECT["optional-dependencies"], sys.version, interpreter, installs]
    digest = sha256(repr(demands).encode() + (REPOSITORY / "uv.lock").read_bytes()).hexdigest()[:8]
    cache_folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache_folder / "pillarbox" / f"{name}-{digest}"
    is_whole = folder / ".installed"
    with one_at_a_time():
        if not is_whole.exists():
            _uv(folder, "venv", "--clear", "--python", interpreter, str(folder))
            for install in installs:
                _uv(folder, *install)
            is_whole.touch()
    return folder / "bin" / "python"


def _uv(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("uv")), *arguments, "--quiet"],
        cwd=REPOSITORY,
        env={**os.environ, "VIRTUAL_ENV": str(folder), "UV_PROJECT_ENVIRONMENT": str(folder)},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, f"uv {arguments[0]}: {done.stderr[-2000:]}"
