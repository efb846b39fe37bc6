"""The demo as a command: what it runs on, what it prints, how it ends."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from pillarbox.demo.order_file import OrderFileError
from pillarbox.demo.report import as_json as outcome_as_json
from pillarbox.demo.report import print_table
from pillarbox.demo.run import SAGAS, DemoOptions, load_orders, play
from pillarbox.demo.supervisor import WorkerFailedError
from pillarbox.errors import PillarboxError
from pillarbox.telemetry import masked

RECONCILED, NOT_RECONCILED, CANNOT_BEGIN, INTERRUPTED = 0, 1, 2, 130
EXPECTED = (OrderFileError, PillarboxError, DBAPIError, WorkerFailedError)


def run_demo(options: DemoOptions) -> int:
    """Run the order fulfilment and say how it went; return the exit code.

    0: nothing lost, nothing applied twice, the money adds up. 1: something is wrong, the table says what. 2: it could
    not begin. 130: interrupted.
    """
    folder = Path(tempfile.mkdtemp(prefix="pillarbox-demo-"))
    store = options.store or f"sqlite:///{folder / 'demo.db'}"
    try:
        found = load_orders(options.orders, at_most=None if options.saga is None else SAGAS)
        outcome = asyncio.run(play(options, found, store=store, folder=folder))
    except KeyboardInterrupt:
        reason = f"interrupted; what was done so far is in {folder}"
        return _failed("KeyboardInterrupt", reason, INTERRUPTED, as_json=options.as_json)
    except EXPECTED as error:
        return _explained(error, as_json=options.as_json)
    except ExceptionGroup as group:
        if (expected := first_of(group)) is None:
            raise
        return _explained(expected, as_json=options.as_json)
    if options.as_json:
        print(outcome_as_json(outcome, store=store, folder=folder))
    else:
        print_table(outcome, store=store, folder=folder)
    return RECONCILED if outcome.is_reconciled else NOT_RECONCILED


def first_of(group: ExceptionGroup[Exception]) -> Exception | None:
    """Return the first error in ``group``, if all that is in it can be explained to a user."""
    leaves = list(_leaves(group))
    return leaves[0] if all(isinstance(leaf, EXPECTED) for leaf in leaves) else None


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)  # pyright: ignore[reportUnknownArgumentType]  # narrowing loses its argument
        else:
            yield error


def _explained(error: Exception, *, as_json: bool) -> int:
    reason = f"the store cannot be used: {error.orig}" if isinstance(error, DBAPIError) else str(error)
    code = NOT_RECONCILED if isinstance(error, WorkerFailedError) else CANNOT_BEGIN
    return _failed(type(error).__name__, reason, code, as_json=as_json)


def _failed(kind: str, reason: str, code: int, *, as_json: bool) -> int:
    """Say why, as every other command does: with ``--json`` on stdout, for programs."""
    if as_json:
        print(json.dumps({"error": {"type": kind, "message": masked(reason)}}, ensure_ascii=False, indent=2))
    else:
        print(f"pillarbox demo: {masked(reason)}", file=sys.stderr)
    return code
