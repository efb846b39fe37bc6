"""A broker that only remembers, in a file that outlives its process: one line for each copy it took."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pillarbox.channel import Confirmed, MessageSender, SendResult
from pillarbox.message import Message
from pillarbox.observe import Event as Notice
from tests.brokers import StandInBroker
from tests.fault.story import entry_in
from tests.history import Event

BUSY, IDLE = b"B", b"-"


class Lines:
    """A file of JSON lines to which many processes append, each line in one write."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)

    def append(self, line: object) -> None:
        """Write one line."""
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")


def lines(path: Path) -> list[dict[str, object]]:
    """Read what was appended; a file that does not exist yet is empty, and a line under way is not there yet."""
    if not path.exists():
        return []
    complete, _, _ = path.read_bytes().rpartition(b"\n")
    return [_whole(line) for line in complete.splitlines()]


def _whole(line: bytes) -> dict[str, object]:
    """Read a line, or what stands behind the beginning of one whose writer was killed between two pages of the file."""
    start = 0
    while True:
        try:
            read: dict[str, object] = json.loads(line[start:])
        except json.JSONDecodeError:
            start = line.find(b'{"', start + 1)
            if start < 0:
                raise
        else:
            return read


class Mark:
    """A byte in a file that says what a process was doing when it was killed."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)

    @contextmanager
    def busy(self) -> Generator[None]:
        """Be busy for as long as the block lasts."""
        os.pwrite(self._descriptor, BUSY, 0)
        try:
            yield
        finally:
            os.pwrite(self._descriptor, IDLE, 0)


def has_worked(path: Path) -> bool:
    """Tell whether the process that writes the mark at ``path`` has been busy yet."""
    return path.exists() and path.stat().st_size > 0


def was_busy(path: Path) -> bool:
    """Tell whether the process that wrote the mark at ``path`` was busy."""
    return path.exists() and path.read_bytes() == BUSY


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One copy that the broker took."""

    event: Event
    message_id: str
    at: float
    sender: str


class RecordingBroker(StandInBroker, MessageSender):
    """Confirms a message once its line is written; a hook stands between a message's line and the next."""

    def __init__(
        self,
        log: Path,
        *,
        sender: str = "",
        mark: Mark | None = None,
        before_each: Callable[[], Awaitable[None]] | None = None,
        after_each: Callable[[], Awaitable[None]] | None = None,
        ordered_prefix: bool = False,
    ) -> None:
        super().__init__(ordered_prefix=ordered_prefix)
        self._log = Lines(log)
        self._sender = sender
        self._mark = mark or Mark(log.with_suffix(".mark"))
        self._before_each = before_each or _nothing
        self._after_each = after_each or _nothing

    def sender(self) -> MessageSender:
        return self

    async def send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        with self._mark.busy():
            for message in messages:
                await self._before_each()
                self.take(message)
                await self._after_each()
        return [Confirmed()] * len(messages)

    def take(self, message: Message) -> None:
        """Write the line of ``message``."""
        line = {"at": time.time(), "sender": self._sender, "id": message.id, **asdict(entry_in(message))}
        self._log.append(line)


async def _nothing() -> None:
    pass


def records(log: Path) -> list[Record]:
    """Return every copy in the broker's log, in its order."""
    return [
        Record(
            event=Event(line["token"], line["account"], line["seq"]),  # type: ignore[arg-type]
            message_id=line["id"],  # type: ignore[arg-type]
            at=line["at"],  # type: ignore[arg-type]
            sender=line["sender"],  # type: ignore[arg-type]
        )
        for line in lines(log)
    ]


def count_records(log: Path, *, sender: str = "") -> int:
    """Count the copies in the broker's log, all or those of one sender, without reading what they say."""
    if not log.exists():
        return 0
    content = log.read_bytes()
    return content.count(f'"sender": {json.dumps(sender)},'.encode() if sender else b"\n")


class NoticeLog:
    """An observer that writes down what it is told, with its kind."""

    def __init__(self, path: Path) -> None:
        self._lines = Lines(path)

    def notice(self, event: Notice, /) -> None:
        """Write one line."""
        told = {name: str(value) for name, value in asdict(event).items()}
        self._lines.append({"kind": type(event).__name__, **told})
