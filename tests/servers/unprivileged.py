"""Running a server as somebody other than root, which PostgreSQL insists on."""

from __future__ import annotations

import functools
import os
import pwd
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.servers.errors import ServerStartError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_MAPPED = ("unshare", "-U", "--map-user=1000", "--map-group=1000")


@dataclass(frozen=True, slots=True)
class RunAs:
    """How to start a command without being root: behind a prefix, or as a user of the system."""

    prefix: tuple[str, ...] = ()
    user: str | None = None

    def give(self, folder: Path) -> None:
        """Hand ``folder`` and all in it to the chosen user, and let that user pass through the folder it lies in."""
        if self.user is not None:
            entry = pwd.getpwnam(self.user)
            for path in (folder, *folder.rglob("*")):
                os.chown(path, entry.pw_uid, entry.pw_gid)
            folder.parent.chmod(0o711)


@functools.cache
def unprivileged(users: Sequence[str] = ("postgres", "nobody")) -> RunAs:
    """Choose how to run unprivileged here.

    Not root: as we are. Root: in a user namespace where we look like uid 1000 and own our files; else as the first of
    ``users`` that the system knows.

    Raises:
        ServerStartError: root, no user namespaces, and none of the users exists.
    """
    if os.geteuid() != 0:
        return RunAs()
    if _can_map_users():
        return RunAs(prefix=_MAPPED)
    known = {entry.pw_name for entry in pwd.getpwall()}
    for user in users:
        if user in known:
            return RunAs(user=user)
    raise ServerStartError(
        f"the server refuses root; there are no user namespaces here and no user {' or '.join(users)}"
    )


def _can_map_users() -> bool:
    try:
        return subprocess.run([*_MAPPED, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
