"""Counts what happens, in a file that outlives every crash.

A line is written when the event is told, which is after its transaction: a process that ends in between leaves fewer
lines than things that happened. What must be exact is therefore read from the database, see ``reconciliation``.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pillarbox.observe import Event, Observer


class Tally(Observer):
    """Appends a line for each event; several processes may write to the same file."""

    def __init__(self, path: Path) -> None:
        """Append to ``path``."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def notice(self, event: Event, /) -> None:
        """Append ``event`` in one write."""
        line = json.dumps({"event": type(event).__name__, **asdict(event)}, default=str) + "\n"
        os.write(self._file, line.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What a tally file says.

    Attributes:
        suppressed: messages that a consumer was given again and had processed before.
        retried: messages that a consumer was given another attempt at.
        troubles: events nobody wants to see often, by name.
    """

    suppressed: int
    retried: int
    troubles: dict[str, int]


TROUBLES = frozenset({"SettlementRefused", "RecordParked", "BrokerAway", "WorkerFaltered", "RunRolledBack"})


def counted(path: Path) -> Counted:
    """Count the lines of ``path``."""
    seen: Counter[str] = Counter()
    retried: set[tuple[str, str]] = set()
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        event: dict[str, Any] = json.loads(line)
        seen[event["event"]] += 1
        failed_before = event["event"] in ("MessageHandled", "MessageDead") and event["attempts"] > 1
        if failed_before or (event["event"] == "AttemptFailed" and event["retry_after"] is not None):
            retried.add((event["consumer"], event["message_id"]))
    return Counted(
        suppressed=seen["DuplicateSuppressed"],
        retried=len(retried),
        troubles={name: seen[name] for name in sorted(TROUBLES) if seen[name]},
    )
