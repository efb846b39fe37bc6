"""What a user sees when a command fails: one message, no traceback, no password."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from sqlalchemy.exc import SQLAlchemyError

from pillarbox.cli.output import print_json, wants_json
from pillarbox.errors import PillarboxError
from pillarbox.telemetry import masked

FAILED = 2

T = TypeVar("T")


class Commands(click.Group):
    """A group whose commands turn the library's errors, and the database's, into messages."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; usage errors stay click's own unless JSON was asked for."""
        return reporting_errors(lambda: super(Commands, self).invoke(ctx))


def reporting_errors(work: Callable[[], T]) -> T:
    """Do ``work``; an error is printed and ends the command with exit code 2."""
    try:
        return work()
    except click.UsageError as error:
        if not wants_json():
            raise
        _report("UsageError", error.format_message())
    except PillarboxError as error:
        _report(type(error).__name__, str(error))
    except SQLAlchemyError as error:
        _report("StoreUnavailableError", f"the database refused or cannot be reached: {_first_line(error)}")
    except BrokenPipeError:  # who reads stdout has gone, as with "| head": click ends quietly; servers' are wrapped
        raise
    except OSError as error:
        _report(type(error).__name__, f"{error}; check that the server runs and can be reached")
    raise click.exceptions.Exit(FAILED)


def _report(kind: str, message: str) -> None:
    if wants_json():
        print_json({"error": {"type": kind, "message": message}})
    else:
        click.echo(f"Error: {masked(message)}", err=True)


def _first_line(error: SQLAlchemyError) -> str:
    """Return what the driver says, without the statement and its parameters."""
    cause: BaseException | None = getattr(error, "orig", None)
    lines = str(cause if cause is not None else error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
