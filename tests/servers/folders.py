"""Temporary folders of servers, and clearing away what a killed run left in them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from tests.servers.processes import ProcessId, end_stranger

PID_FILE = "server.pid"
_OWNER_FILE = "owner.pid"
_PREFIX = "pillarbox-server-"


def private_folder(name: str) -> Path:
    """Create a new folder for the server ``name``, marked as belonging to this process."""
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{name}-"))
    ProcessId.of(os.getpid()).write(folder / _OWNER_FILE)
    return folder


def remove_folder(folder: Path) -> None:
    """Remove a server's folder with all its data."""
    shutil.rmtree(folder, ignore_errors=True)


def clear_leftovers() -> None:
    """End the servers and remove the folders of runs that were killed before they could do it themselves.

    Only folders of our own user whose owning process is dead are touched.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            owner = ProcessId.read(folder / _OWNER_FILE)
            if folder.stat().st_uid != os.geteuid() or owner is None or owner.alive:
                continue
            if server := ProcessId.read(folder / PID_FILE):
                end_stranger(server)
            remove_folder(folder)
