"""Worker processes that are ready at once, so that a test can afford to kill fifty of them.

They are forked from a server process that has imported everything; a killed one is replaced within milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from tests.fault.recording import lines
from tests.waiting import wait_until

if TYPE_CHECKING:
    from datetime import timedelta
    from multiprocessing.context import ForkServerProcess

Program = Callable[..., Coroutine[Any, Any, None]]


class Seat:
    """What a worker and the test know of each other: a name, and files that bear it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.mark = folder / f"{name}.mark"
        self.notices = folder / f"{name}.notices"
        self.log = folder / f"{name}.log"


class Worker(Seat):
    """One process that a test may kill and freeze."""

    def __init__(self, process: ForkServerProcess, folder: Path, name: str) -> None:
        super().__init__(folder, name)
        self._process = process

    @property
    def pid(self) -> int:
        """The number of its process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code; ``None`` while it runs, negative for the signal that ended it."""
        return self._process.exitcode

    @property
    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text() if self.log.exists() else ""

    def told(self) -> str:
        """Return how often its box told of what, and the last troubles."""
        notices = lines(self.notices)
        troubles = [notice for notice in notices if notice["kind"] in {"WorkerFaltered", "RunRolledBack"}]
        errors = Counter(str(notice.get("error")) for notice in troubles)
        return f"{Counter(notice['kind'] for notice in notices)} {errors.most_common(5)} {troubles[-1:]}"

    def kill(self) -> None:
        """End it as kill -9 does, frozen or not, and wait for its end."""
        if self._process.exitcode is None:
            self._process.kill()
        self._process.join()

    def terminate(self) -> None:
        """Ask it to end in order, as a deployment does."""
        self._signal(signal.SIGTERM)

    def show_tasks(self) -> None:
        """Have a program that heeds SIGUSR1 print where its tasks wait."""
        self._signal(signal.SIGUSR1)

    def freeze(self) -> None:
        """Stop it in mid-step."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where it was stopped."""
        self._signal(signal.SIGCONT)

    async def ended(self, within: timedelta) -> int:
        """Wait for its end and return the exit code."""

        await wait_until(lambda: self.exit_code is not None, within, what=f"end of {self.name}")
        assert self.exit_code is not None
        return self.exit_code

    def _signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)


class Workers:
    """Starts workers and kills those that are left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(["tests.fault.programs", "tests.fault.members"])
        self._started: list[Worker] = []

    def start(self, program: Program, *arguments: object, name: str | None = None) -> Worker:
        """Start ``program(seat, *arguments)`` in a process of its own."""
        name = f"{name or program.__name__}-{len(self._started) + 1}"
        process = self._context.Process(target=_enter, args=(Seat(self.folder, name), program, arguments), name=name)
        process.start()
        worker = Worker(process, self.folder, name)
        self._started.append(worker)
        return worker

    def complaints(self) -> str:
        """Return what the workers printed: nothing, if all went well."""
        return "\n".join(f"--- {one.name}\n{one.output[-3000:]}" for one in self._started if one.output)

    def end_all(self) -> None:
        """Kill every worker and print what they and their boxes said, which pytest shows when the test failed."""
        for worker in self._started[-6:]:
            print(f"--- {worker.name}: {worker.told()}")
        for worker in self._started:
            worker.kill()
        print(self.complaints())


def _enter(seat: Seat, program: Program, arguments: tuple[object, ...]) -> None:
    """Run in the worker: output into a file of its own; no life beyond the test's."""
    descriptor = os.open(seat.log, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    Thread(target=_die_with_parent, daemon=True).start()
    asyncio.run(program(seat, *arguments))


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
