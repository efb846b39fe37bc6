"""Installing a server's Debian package when its program is missing."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers.errors import ServerMissingError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

POLICY = Path("/usr/sbin/policy-rc.d")
LOCK = Path(tempfile.gettempdir()) / "pillarbox-packages.lock"
_FORBID_STARTING = "#!/bin/sh\nexit 101\n"
_WAIT_FOR_LOCK = ("-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3")
_TIMEOUT_S = 900


def install_packages(packages: Sequence[str]) -> None:
    """Install Debian packages without starting any service of the system.

    The package lists are refreshed once per process. Another apt at work is waited for, and so is another of our
    processes that installs: apt itself does not wait for the lock on its lists.

    Raises:
        ServerMissingError: no apt-get here, not root, or apt-get failed. Nothing is half-installed by us.
    """
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise ServerMissingError(f"this machine has no apt-get: install {names} by hand")
    if os.geteuid() != 0:
        raise ServerMissingError(f"not root, so it cannot be installed from here: run `sudo apt-get install {names}`")
    with one_at_a_time(), _services_left_alone():
        refresh_lists()
        _apt_get("install", "--yes", "--no-install-recommends", *packages)


@functools.cache
def refresh_lists() -> None:
    """Run ``apt-get update``, once per process."""
    _apt_get("update")


def _apt_get(*arguments: str) -> None:
    command = ["apt-get", "--quiet", *_WAIT_FOR_LOCK, *arguments]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ServerMissingError(f"`{' '.join(command)}` took longer than {_TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise ServerMissingError(f"`{' '.join(command)}` failed:\n{(done.stdout + done.stderr)[-2000:]}")


@contextmanager
def one_at_a_time() -> Generator[None]:
    """Keep others of our processes from installing at the same time."""
    with LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go of with the file
        yield


@contextmanager
def _services_left_alone() -> Generator[None]:
    """Keep Debian's packages from starting their own server: ours are private."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text(_FORBID_STARTING)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)
