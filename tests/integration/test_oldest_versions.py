"""The oldest versions of our dependencies that are allowed will do: in an environment that has just these."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest

from tests.processes import REPOSITORY
from tests.servers.packages import one_at_a_time

WORK = {
    "unit": ("tests/unit",),
    "transactions": ("tests/integration/test_direct_transactions.py",),
    "mariadb": ("tests/contract/test_outbox_store.py", "tests/contract/test_saga_store.py", "-k", "mariadb"),
    "brokers": ("tests/contract/test_brokers.py", "-k", "redis or nats or rabbitmq"),
    "kafka": ("tests/contract/test_brokers.py", "-k", "kafka"),
}
TOOLS = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis", "cloudevents")
WITHIN_S = 280


@pytest.mark.server
@pytest.mark.parametrize("work", WORK)
def test_with_the_oldest_versions_that_are_allowed(work: str) -> None:
    done = subprocess.run(
        [str(_oldest()), "-m", "pytest", "-q", "-p", "no:cacheprovider", *WORK[work]],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )

    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]


@cache
def _oldest() -> Path:
    """Return the Python of an environment with the oldest versions, made when it is first asked for."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = [name for name in project["optional-dependencies"] if name != "all"]
    digest = sha256(repr((project["dependencies"], project["optional-dependencies"], sys.version)).encode()).hexdigest()
    cache_folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache_folder / "pillarbox" / f"oldest-{digest[:8]}"
    python, is_whole = folder / "bin" / "python", folder / ".installed"
    with one_at_a_time():
        if not is_whole.exists():
            _uv("venv", "--clear", "--python", sys.executable, str(folder))
            ours = ["--resolution", "lowest-direct", "--editable", f"{REPOSITORY}[{','.join(extras)}]"]
            _uv("pip", "install", "--python", str(python), *ours)
            _uv("pip", "install", "--python", str(python), *TOOLS)
            is_whole.touch()
    return python


def _uv(*arguments: str) -> None:
    uv = Path(sys.executable).with_name("uv")
    done = subprocess.run(
        [str(uv), *arguments, "--quiet"], capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    assert done.returncode == 0, f"uv {arguments[0]}: {done.stderr[-2000:]}"
