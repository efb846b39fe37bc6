"""No file of the repository names a machine that it was written on."""

import os
import re
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from tests.architecture.tree import ROOT

LOCK_HOSTS = {"pypi.org", "files.pythonhosted.org"}

# Written in two parts so that this file passes its own test.
FOLDERS = ["/wor" + "k/", "/roo" + "t/", "/tmp/" + "pb"]
HOME = re.compile(r"/(?:home|Users)/[a-z][\w.-]*/")
INDEXES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX")


def _files() -> list[Path]:
    """Return the files that are tracked, or that would be with the next ``git add``."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    return [path for folder in ("src", "tests", "docs") for path in (ROOT / folder).rglob("*") if path.is_file()]


def _private_hosts() -> set[str]:
    """Return the names of this machine and of the package mirrors that it is set up for."""
    hosts = {urlsplit(os.environ.get(name, "")).hostname or "" for name in INDEXES}
    machine = socket.gethostname()
    if len(machine) >= 8 and any(letter.isdigit() for letter in machine):
        hosts.add(machine)
    return {host for host in hosts if (host and host not in LOCK_HOSTS and "." in host) or host == machine}


def test_no_file_names_a_folder_or_a_host_of_the_machine_it_was_written_on() -> None:
    needles = [*FOLDERS, *sorted(_private_hosts() - {"", "localhost"})]
    found: list[str] = []

    for path in _files():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        traces = [needle for needle in needles if needle in text]
        traces += HOME.findall(text)
        found += [f"{path.relative_to(ROOT)}: {trace}" for trace in traces]

    assert found == []


def test_the_lock_names_only_the_public_package_index() -> None:
    lock = (ROOT / "uv.lock").read_text(encoding="utf-8")

    hosts = set(re.findall(r"https?://([^/\"]+)", lock))

    assert hosts <= LOCK_HOSTS
    assert not re.search(r'source = \{ (?:path|directory|url) = "', lock)
