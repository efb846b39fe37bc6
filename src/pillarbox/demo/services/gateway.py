"""A pretend mail gateway: a file with a line for each mail, which remembers the keys it has seen."""

import json
import os
from pathlib import Path

from pillarbox.demo.services.notification import MailGateway


class FileMailGateway(MailGateway):
    """Appends mails to a file; one process at a time."""

    def __init__(self, path: Path) -> None:
        """Remember the keys of the mails that are in ``path`` already."""
        self._sent = {mail["key"] for mail in mails_in(path)}
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def send(self, *, order_id: str, text: str, idempotency_key: str) -> None:
        """Append one line in one write, so that a crash leaves all of it or nothing."""
        if idempotency_key in self._sent:
            return
        line = json.dumps({"key": idempotency_key, "order_id": order_id, "text": text}) + "\n"
        os.write(self._file, line.encode())
        self._sent.add(idempotency_key)


def mails_in(path: Path) -> list[dict[str, str]]:
    """Return the mails that were sent."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
