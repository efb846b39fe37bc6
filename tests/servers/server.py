"""The life of a test server: install, start, wait until ready, pause, kill, restart, stop, close.

A new kind of server subclasses ``Server``, says how to find, prepare, command and recognise it, and is named in
``tests.servers.KNOWN``.
"""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from tests.servers.errors import ServerMissingError, ServerStartError
from tests.servers.folders import PID_FILE, clear_leftovers, private_folder, remove_folder
from tests.servers.packages import install_packages
from tests.servers.ports import free_port
from tests.servers.processes import Process
from tests.waiting import Deadline, let_pass, wait_blocking

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from tests.servers.unprivileged import RunAs

_BETWEEN_TRIES = timedelta(milliseconds=100)
_STOP_WITHIN = timedelta(seconds=20)


class Server(ABC):
    """A private server on a free loopback port, its data in a temporary folder.

    ``stop`` and ``kill`` keep folder and port, so that ``start`` brings back the same server; ``close`` throws it away.
    Used as a context manager it is started and closed.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    close_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, *, choose_port: Callable[[], int] = free_port) -> None:
        clear_leftovers()
        self.folder = private_folder(self.name)
        self.port = choose_port()
        self._choose_port = choose_port
        self._process: Process | None = None
        self._prepared = False
        self._was_ready = False

    # What a kind of server says about itself.

    @classmethod
    @abstractmethod
    def is_installed(cls) -> bool:
        """Whether its programs are on this machine."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect; stays the same over restarts."""

    @abstractmethod
    def prepare(self) -> None:
        """Create its data in ``folder``; called once, before the first start."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The program in the foreground, with its arguments."""

    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """The environment of the program."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it serves clients now; must not block for long."""

    @abstractmethod
    def port_was_taken(self, log: str) -> bool:
        """Whether a failed start's log says that somebody else has the port."""

    @abstractmethod
    def may_pass(self, log: str) -> bool:
        """Whether a failed start's log names a cause that passes by itself, such as the lock of a dying predecessor."""

    def run_as(self) -> RunAs | None:
        """As whom the program runs; None: as we are."""
        return None

    def before_start(self) -> None:
        """Clear away what a crash left in the folder; called before every try. By default nothing."""
        return

    # The life that all kinds share.

    @classmethod
    def install(cls) -> None:
        """Install the program's package when the program is missing.

        Raises:
            ServerMissingError: it is missing and cannot be installed here.
        """
        if cls.is_installed():
            return
        try:
            install_packages(cls.packages)
        except ServerMissingError as missing:
            raise ServerMissingError(f"{cls.name} is not on this machine: {missing}") from missing
        if not cls.is_installed():
            raise ServerMissingError(f"{' '.join(cls.packages)} was installed, and still {cls.name} is not found")

    def start(self, within: timedelta = timedelta(seconds=60)) -> None:
        """Start it and wait until it serves; a paused server is resumed. Nothing happens when it already runs.

        Installing is not counted. A port that somebody took is replaced on the first start; on a restart, where clients
        know it, and for other causes that pass, the start is tried again until the time is used up.

        Raises:
            ServerMissingError: the program is missing and cannot be installed.
            ServerStartError: it did not become ready; it does not run.
        """
        if self.running:
            self.resume()
            return
        self.install()
        deadline = Deadline(within)
        if not self._prepared:
            self.prepare()
            self._prepared = True
        while not self._try_start(deadline):
            said = self.process.output
            taken = self.port_was_taken(said)
            if deadline.passed or not (taken or self.may_pass(said)):
                raise ServerStartError(
                    f"{self.name} on port {self.port} did not become ready; its log ends:\n{self.log_tail()}"
                )
            if taken and not self._was_ready:
                self.port = self._choose_port()
            let_pass(_BETWEEN_TRIES)
        self._was_ready = True

    def stop(self, within: timedelta = _STOP_WITHIN) -> None:
        """End it in an orderly way, keeping its data.

        Raises:
            TimeoutError: it did not end in time; it was killed then.
        """
        self._end(self.stop_signal, within)

    def kill(self) -> None:
        """End it with all its processes by SIGKILL, keeping its data."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        """Stop it and start it again with the same data, at the same address."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze all its processes: connections stay open and nothing answers."""
        if self._process is not None:
            self._process.pause()

    def resume(self) -> None:
        """Let a paused server go on."""
        if self._process is not None:
            self._process.resume()

    def close(self) -> None:
        """End it, by force when need be, and remove its folder."""
        try:
            self._end(self.close_signal, _STOP_WITHIN)
        except TimeoutError:
            pass  # killed, and that is as good: its data goes anyway
        finally:
            remove_folder(self.folder)

    @property
    def running(self) -> bool:
        """Whether its process lives, frozen or not."""
        return self._process is not None and self._process.running

    @property
    def process(self) -> Process:
        """The process of the last start.

        Raises:
            LookupError: it was never started.
        """
        if self._process is None:
            raise LookupError(f"{self.name} was never started")
        return self._process

    @property
    def log(self) -> Path:
        """The file that takes the program's output, of all starts."""
        return self.folder / "server.log"

    def log_tail(self) -> str:
        """The end of what the program wrote, over all its starts."""
        return self.log.read_bytes()[-3000:].decode(errors="replace") if self.log.exists() else ""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _try_start(self, deadline: Deadline) -> bool:
        """Start once; True when it serves, else it does not run any more."""
        self.before_start()
        process = self._process = Process.spawn(
            self.command(),
            log=self.log,
            cwd=self.folder,
            env=self.environment(),
            run_as=self.run_as(),
            pid_file=self.folder / PID_FILE,
        )
        try:
            wait_blocking(lambda: not process.running or self.is_ready(), deadline.left)
        except BaseException as error:
            process.kill()
            if isinstance(error, AssertionError):
                return False
            raise
        return process.running

    def _end(self, number: signal.Signals, within: timedelta) -> None:
        if self._process is None:
            return
        family = self._process.family
        self._process.resume()
        self._process.send(number)
        try:
            self._process.wait(within)
            wait_blocking(lambda: not any(member.alive for member in family), within, what=f"end of all of {self.name}")
        except (TimeoutError, AssertionError) as late:
            self._process.kill()
            raise TimeoutError(f"{self.name} did not end by {number.name}: {late}") from late
