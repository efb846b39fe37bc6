"""Start servers and keep them until Ctrl-C: ``python -m tests.servers [--json] [name …]``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.servers import KNOWN, ServerError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the named servers, or all; print their URLs, one per line or as one JSON object; wait; end them."""
    kinds = {kind.name: kind for kind in KNOWN}
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"one of {', '.join(kinds)} (default: all)")
    parser.add_argument("--json", action="store_true", help="print one object, URLs by server name")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.names) - set(kinds):
        parser.error(f"unknown server: {', '.join(sorted(unknown))}")

    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    with ExitStack() as running:
        try:
            urls = {name: running.enter_context(kinds[name]()).url for name in chosen.names or kinds}
        except ServerError as error:
            print(error, file=sys.stderr)
            return 1
        print(json.dumps(urls) if chosen.json else "\n".join(urls.values()), flush=True)
        ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
