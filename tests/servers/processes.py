"""Processes that are started, signalled and ended by pid, each together with its descendants.

Nothing is looked up by name. A process that outlives its starter is known again by pid and start time (``ProcessId``).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tests.waiting import wait_blocking

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from tests.servers.unprivileged import RunAs

_PROC = Path("/proc")
_END_WITHIN = timedelta(seconds=20)


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A pid together with the start time of its process, so that a reused pid is not taken for it."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Identify the process that has ``pid`` now."""
        return cls(pid, _start_time(pid) or "")

    @classmethod
    def read(cls, file: Path) -> ProcessId | None:
        """Read what ``write`` wrote; None when the file is not there or not whole."""
        try:
            pid, _, started = file.read_text().strip().partition(" ")
            return cls(int(pid), started)
        except (OSError, ValueError):
            return None

    def write(self, file: Path) -> None:
        """Write pid and start time to ``file``."""
        file.write_text(f"{self.pid} {self.started}\n")

    @property
    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        return bool(self.started) and _start_time(self.pid) == self.started

    @property
    def at_rest(self) -> bool:
        """Whether it does nothing: each of its threads is stopped, or it is gone."""
        return not self.alive or _states(self.pid) <= set("TtZX")


class Process:
    """A process of ours and everything that descends from it."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self._popen = popen
        self._log_begins_at = 0
        self.log = log

    @classmethod
    def spawn(
        cls,
        command: Sequence[str],
        *,
        log: Path,
        cwd: Path,
        env: Mapping[str, str],
        run_as: RunAs | None = None,
        pid_file: Path | None = None,
    ) -> Self:
        """Start ``command`` in a session of its own, its output appended to ``log``.

        A session of its own: Ctrl-C in the terminal reaches the tests, not their servers.
        """
        prefix, user = (run_as.prefix, run_as.user) if run_as else ((), None)
        with log.open("ab") as output:
            begins_at = output.tell()
            popen = subprocess.Popen(
                [*prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=dict(env),
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
        process = cls(popen, log)
        process._log_begins_at = begins_at
        if pid_file is not None:
            ProcessId.of(popen.pid).write(pid_file)
        return process

    @property
    def pid(self) -> int:
        """The pid of the process itself."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended (negative: the signal that ended it), or None while it runs or is frozen."""
        return self._popen.poll()

    @property
    def running(self) -> bool:
        """Whether it has not ended; a frozen process is running."""
        return self.exit_code is None

    @property
    def output(self) -> str:
        """What it and its descendants wrote to the log since it was started."""
        with self.log.open("rb") as log:
            log.seek(self._log_begins_at)
            return log.read().decode(errors="replace")

    @property
    def family(self) -> frozenset[ProcessId]:
        """What lives of the process, its group and all their descendants; the group may outlive the process."""
        family = _family(self.pid)
        if self.running:
            return family
        reused = any(member.pid == self.pid for member in family)  # a group keeps its number from being given again
        return frozenset() if reused else family

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process alone; nothing happens when it has ended."""
        self._popen.send_signal(number)

    def terminate(self) -> None:
        """Ask it to end by SIGTERM, without waiting."""
        self.send(signal.SIGTERM)

    def wait(self, within: timedelta) -> int:
        """Block until it ends and return its exit code.

        Raises:
            TimeoutError: it is still running.
        """
        try:
            return self._popen.wait(within.total_seconds())
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"process {self.pid} still runs after {within.total_seconds():g} s") from None

    def pause(self) -> None:
        """Freeze it and its descendants by SIGSTOP; on return all of their threads rest.

        One thread takes the signal and stops the others; until it has been given a processor, these go on.
        """
        frozen = _freeze(lambda: self.family)
        wait_blocking(lambda: all(one.at_rest for one in frozen), _END_WITHIN, what=f"rest of processes {frozen}")

    def resume(self) -> None:
        """Let it and its descendants run on by SIGCONT."""
        for member in self.family:
            _signal(member, signal.SIGCONT)

    def kill(self) -> None:
        """End it and its descendants by SIGKILL, as when the machine loses power; on return all are gone.

        They are frozen first, so that none sees another die. Orphans of a process that ended by itself are ended too.
        """
        family = _freeze(lambda: self.family)
        for member in family:
            _signal(member, signal.SIGKILL)
        self._popen.wait()
        _wait_gone(family)


def end_stranger(process: ProcessId) -> None:
    """Kill a process that another, dead run of ours left behind, with its descendants."""
    if process.alive:
        family = _freeze(lambda: _family(process.pid))
        for member in family:
            _signal(member, signal.SIGKILL)
        _wait_gone(family)


def name_of(pid: int) -> str | None:
    """The program's name of a living process, or None."""
    try:
        return (_PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return None if _PROC.joinpath("self").exists() else Path(_ps("-o", "comm=", "-p", str(pid))).name or None


def _freeze(family: Callable[[], frozenset[ProcessId]]) -> frozenset[ProcessId]:
    """Stop the family, whatever it forks meanwhile, and return its members."""
    stopped: frozenset[ProcessId] = frozenset()
    while new := family() - stopped:
        for member in sorted(new, key=lambda one: one.pid):  # parents mostly first
            _signal(member, signal.SIGSTOP)
        stopped |= new
    return stopped


def _family(leader: int) -> frozenset[ProcessId]:
    """The process ``leader``, the group that it led, and the descendants of all of them."""
    relations = _relations()
    generation = {pid for pid, (_, group) in relations.items() if leader in {pid, group}}
    members = set(generation)
    while generation:
        generation = {pid for pid, (parent, _) in relations.items() if parent in generation} - members
        members |= generation
    return frozenset(one for one in map(ProcessId.of, members) if one.started)


def _signal(process: ProcessId, number: signal.Signals) -> None:
    if process.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _wait_gone(family: frozenset[ProcessId]) -> None:
    wait_blocking(lambda: not any(one.alive for one in family), _END_WITHIN, what=f"end of processes {family}")


def _relations() -> dict[int, tuple[int, int]]:
    """The parent and the group of every process on the machine."""
    if _PROC.joinpath("self").exists():
        pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
        return {pid: (int(fields[1]), int(fields[2])) for pid in pids if (fields := _stat(pid))}
    rows = (line.split() for line in _ps("-A", "-o", "pid=,ppid=,pgid=").splitlines())
    return {int(pid): (int(parent), int(group)) for pid, parent, group in rows}


def _start_time(pid: int) -> str | None:
    """When the process was started, in the system's own unit; None for no process and for a zombie."""
    if _PROC.joinpath("self").exists():
        fields = _stat(pid)
        return fields[19] if fields and fields[0] not in {"Z", "X"} else None
    state, _, started = _ps("-o", "stat=,lstart=", "-p", str(pid)).partition(" ")
    return started.strip() if state and not state.startswith("Z") else None


def _states(pid: int) -> set[str]:
    """The states of a process's threads, a letter each; of the process where the system does not tell of threads."""
    if _PROC.joinpath("self").exists():
        with contextlib.suppress(OSError):
            tasks = list((_PROC / str(pid) / "task").iterdir())
            return {fields[0] for task in tasks if (fields := _fields_of(task))}
        return set()
    return set(_ps("-o", "stat=", "-p", str(pid))[:1])


def _stat(pid: int) -> list[str]:
    return _fields_of(_PROC / str(pid))


def _fields_of(folder: Path) -> list[str]:
    """The fields of its ``stat`` after the program's name, which may itself hold spaces and brackets."""
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _ps(*arguments: str) -> str:
    return subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False).stdout.strip()
