"""Keeps one worker process alive: starts it, starts it again when it crashed, kills it when the mischief says so."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from pillarbox.clock import Clock
from pillarbox.demo.mischief import CRASH_EXIT_CODE

STOPS_WITHIN = timedelta(seconds=20)
PAUSE_AFTER_FAILURE = timedelta(milliseconds=500)
FAILURES_IN_A_ROW = 3


class WorkerFailedError(Exception):
    """The worker process cannot be kept running, for another reason than planned mischief."""


class Supervisor:
    """One worker process at a time."""

    def __init__(self, folder: Path, *, store: str, broker: str | None, clock: Clock, saga: str | None = None) -> None:
        """Start workers for ``store`` and ``broker``; their output goes to ``worker.log`` in ``folder``."""
        self._folder = folder
        self._arguments = (str(folder),) if saga is None else (str(folder), saga)
        self._environment = {**os.environ, "PILLARBOX_STORE": store}
        self._environment.pop("PILLARBOX_BROKER", None)
        if broker is not None:
            self._environment["PILLARBOX_BROKER"] = broker
        if sys.dont_write_bytecode:  # a worker that is started again should not compile everything again
            self._environment.pop("PYTHONDONTWRITEBYTECODE", None)
            self._environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self.crashes = 0
        self.kills = 0

    @asynccontextmanager
    async def working(self) -> AsyncGenerator[None]:
        """Keep a worker at work for as long as the block lasts, then let it finish what it has in hand.

        Raises:
            WorkerFailedError: it ended by itself several times in a row.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep())
            try:
                yield
            finally:
                self._stop()
        shutil.rmtree(self._folder / "bytecode", ignore_errors=True)

    def kill(self) -> None:
        """End the worker with SIGKILL, if one is running; another is started."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            self.kills += 1

    def _stop(self) -> None:
        self._stopping.set()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    async def _keep(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            code = await self._run_one()
            if self._stopping.is_set():
                return
            if code == CRASH_EXIT_CODE:
                self.crashes += 1
            planned = code in (CRASH_EXIT_CODE, -9)
            failures = 0 if planned else failures + 1
            if failures == FAILURES_IN_A_ROW:
                raise WorkerFailedError(f"the worker process ended with exit code {code}: {self._last_words()}")
            if not planned:
                await self._clock.sleep(PAUSE_AFTER_FAILURE)

    async def _run_one(self) -> int:
        """Run one worker process to its end and return its exit code."""
        with (self._folder / "worker.log").open("ab") as log:
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "pillarbox.demo.worker", *self._arguments),
                env=self._environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        if self._stopping.is_set():
            self._stop()
        try:
            return await self._end_of(process)
        finally:
            if process.returncode is None:
                process.kill()

    async def _end_of(self, process: asyncio.subprocess.Process) -> int:
        """Wait for the end of ``process``; one that does not stop in time is killed."""
        while True:
            try:
                async with asyncio.timeout(STOPS_WITHIN.total_seconds()):
                    return await process.wait()
            except TimeoutError:
                if self._stopping.is_set():
                    process.kill()

    def _last_words(self) -> str:
        lines = (self._folder / "worker.log").read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"
