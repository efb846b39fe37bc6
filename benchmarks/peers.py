"""The environments of peers: each in a folder of its own, with exactly the versions that its requirements name."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from benchmarks.interpreters import interpreter_of

HERE = Path(__file__).parent
CACHE = HERE / ".peers"
_INSTALL_WITHIN_S = 300
_NEWEST_MINOR = 14
_DEMAND = re.compile(r"^# python >= 3\.(\d+)$", re.MULTILINE)
"""The first line of the requirements of a peer that needs more than the Python that ours runs on."""


class PeerMissingError(Exception):
    """A peer could not be installed; its row is reported as missing, with this reason."""


def python_of(peer: str) -> str:
    """Return the Python that has ``peer`` installed, installing it when it is not.

    Raises:
        PeerMissingError: it cannot be had.
    """
    requirements = HERE / "peers" / f"{peer}.txt"
    if not requirements.exists():
        raise PeerMissingError(f"{peer}: {requirements.relative_to(HERE)} does not say what to install")
    interpreter = _interpreter_for(peer, requirements.read_text(encoding="utf-8"))
    digest = sha256(requirements.read_bytes() + interpreter.encode() + sys.version.encode()).hexdigest()[:8]
    folder = CACHE / f"{peer}-{digest}"
    python = folder / "bin" / "python"
    done = folder / ".installed"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        uv = _uv()
        _run([uv, "venv", "--quiet", "--python", interpreter, str(folder)], peer)
        _run([uv, "pip", "install", "--quiet", "--no-deps", "--python", str(python), "-r", str(requirements)], peer)
        _run([uv, "pip", "check", "--quiet", "--python", str(python)], peer)
        done.touch()
    return str(python)


def _interpreter_for(peer: str, requirements: str) -> str:
    """Return ours where the requirements demand nothing newer, and else the oldest on this machine that will do."""
    demand = _DEMAND.search(requirements)
    least = int(demand[1]) if demand else 0
    if sys.version_info >= (3, least):
        return sys.executable
    for minor in range(least, _NEWEST_MINOR + 1):
        if found := interpreter_of(minor):
            return found
    raise PeerMissingError(
        f"{peer} needs Python 3.{least} or newer; none is on the PATH as python3.{least} or the like,"
        " nor among the versions of pyenv"
    )


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise PeerMissingError("uv is not installed; make setup brings it")
    return uv


def _run(command: list[str], peer: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_WITHIN_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissingError(f"{peer}: {error}") from error
    if done.returncode != 0:
        raise PeerMissingError(f"{peer}: {' '.join(done.stderr.split())[-500:]}")
