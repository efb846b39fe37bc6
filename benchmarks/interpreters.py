"""The versions of Python that this machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_ASK_WITHIN_S = 30


@cache
def interpreter_of(minor: int) -> str | None:
    """Return a Python 3 of that minor version, from the PATH or from pyenv; ``None`` where there is none."""
    return next((one for one in _candidates(minor) if _minor_of(one) == minor), None)


def _candidates(minor: int) -> Iterator[str]:
    if found := shutil.which(f"python3.{minor}"):
        yield found
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    yield from sorted(str(python) for python in versions.glob(f"3.{minor}.*/bin/python"))


def _minor_of(python: str) -> int | None:
    """Return the minor version that ``python`` really is; ``None`` where it does not start, as an idle pyenv shim."""
    ask = [python, "-c", "import sys; print(sys.version_info.minor)"]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=_ASK_WITHIN_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return int(answer.stdout)
