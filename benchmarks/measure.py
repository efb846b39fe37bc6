"""What a run costs: seconds, processor time of the process and of its database server, and peak memory.

Runs in the environments of peers too, so it needs nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Task:
    """What a competitor's process is asked to do.

    Attributes:
        url: the database, fresh and empty: ``postgresql://…`` or ``sqlite:///file``.
        count: how many pieces of work.
        server_pid: the database server's first process, whose processor time is counted; ``None`` for SQLite.
        options: of this competitor.
    """

    url: str
    count: int
    server_pid: int | None
    options: dict[str, Any]

    @property
    def file(self) -> str:
        """The SQLite file."""
        return self.url.removeprefix("sqlite:///")


def task() -> Task:
    """Return the task that the command line holds as JSON."""
    return Task(**json.loads(sys.argv[1]))


class Stopwatch:
    """Measures from ``start`` to ``report``."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._end: tuple[float, float, float] | None = None

    def start(self) -> None:
        """Begin."""
        self._server = _server_seconds(self._task.server_pid)
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def lap(self) -> None:
        """End what is measured; what follows until the report is not."""
        self._end = (time.perf_counter(), time.process_time(), _server_seconds(self._task.server_pid))

    def report(self, count: int, **more: float) -> None:
        """End, and print the figures and ``more`` as one line of JSON; ``count`` is what was really done."""
        if self._end is None:
            self.lap()
        assert self._end is not None
        wall, cpu_end, server_end = self._end
        seconds, cpu, server = wall - self._wall, cpu_end - self._cpu, server_end - self._server
        if count < self._task.count:
            sys.exit(f"{count} of {self._task.count} were done")
        figures = {
            "rate": count / seconds,
            "cpu_us": cpu / count * 1e6,
            "server_cpu_us": server / count * 1e6,
            "peak_mib": _peak_mib(),
            **more,
        }
        print(json.dumps(figures), flush=True)


def _server_seconds(pid: int | None) -> float:
    """Return the processor time that a PostgreSQL has used, sessions that have ended included; 0 where unknown."""
    if pid is None or not Path("/proc/self/stat").exists():
        return 0.0
    ticks = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(entry.name) == pid:
            ticks += sum(int(field) for field in fields[11:15])  # its own, and that of children that have ended
        elif int(fields[1]) == pid:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_SECOND


def _peak_mib() -> float:
    """Return the most memory that this process has held, by the figure that its parent leaves no mark on."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
