"""The worker process of the demo: ``python -m pillarbox.demo.worker FOLDER [SAGA]``.

It reads its places from ``PILLARBOX_STORE`` and ``PILLARBOX_BROKER`` (a URL may hold a password, which an argument
would show to everyone) and works until its standard input ends, so it does not outlive the process that started it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from pillarbox.demo.mischief import Mischief
from pillarbox.demo.production import production_of
from pillarbox.demo.shop import open_shop


async def work(folder: Path, saga: str | None) -> None:
    """Relay and handle until standard input ends."""
    mischief = Mischief.from_json((folder / "mischief.json").read_text(encoding="utf-8"))
    store, broker = os.environ["PILLARBOX_STORE"], os.environ.get("PILLARBOX_BROKER")
    production = production_of(saga)
    async with open_shop(store, broker, folder=folder, mischief=mischief, production=production).running():
        await _input_ended()


async def _input_ended() -> None:
    ended = asyncio.Event()

    def read() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            ended.set()

    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), read)
    await ended.wait()


def main() -> None:
    """Run; Ctrl-C is for the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(work(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))


if __name__ == "__main__":
    main()
