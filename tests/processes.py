"""Python worker processes under a test's command: started, killed, frozen and ended by pid, with their output kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers.processes import Process
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

REPOSITORY = Path(__file__).resolve().parent.parent


class PythonProcess(Process):
    """``python -m module arguments``, with the repository on its path and its output in a file.

    ``kill`` is kill -9 of the process and its descendants, ``pause`` and ``resume`` freeze and thaw them, ``terminate``
    sends SIGTERM and returns at once: the test's event loop may have to answer while the process drains.
    """

    async def exited(self, within: timedelta) -> int:
        """Wait for the end of the process and return its exit code (negative: the signal that ended it).

        Raises:
            AssertionError: it is still running; carries the end of its output.
        """

        def ended() -> bool:
            return self.exit_code is not None

        try:
            await wait_until(ended, within, what=f"end of process {self.pid}")
        except AssertionError as late:
            raise AssertionError(f"{late}\n{self.output[-2000:]}") from None
        return self.wait(within)


class PythonProcesses:
    """Starts Python processes and ends whatever of them is left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[PythonProcess] = []

    def start(self, module: str, *arguments: str, env: Mapping[str, str] | None = None) -> PythonProcess:
        """Start ``python -m module arguments``; ``env`` is added to this process's environment."""
        name = f"{module.rpartition('.')[2]}-{len(self._started) + 1}"
        process = PythonProcess.spawn(
            [sys.executable, "-m", module, *arguments],
            log=self._folder / f"{name}.log",
            cwd=REPOSITORY,
            env={**_environment(), **(env or {})},
        )
        self._started.append(process)
        return process

    def end_all(self) -> None:
        """Kill what still runs and print every process's last lines, which pytest shows when the test failed."""
        for process in self._started:
            process.kill()
            print(f"--- {process.log.name}: exit code {process.exit_code}\n{process.output[-4000:]}")


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(REPOSITORY), str(REPOSITORY / "src"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
