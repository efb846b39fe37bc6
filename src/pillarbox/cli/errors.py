"""What a user sees when a command fails: one message, no traceback, no password."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from sqlalchemy.exc import SQLAlchemyError

from pillarbox.cli.output import print_json, wants_json
from pillarbox.errors import PillarboxError
from pillarbox.errors.waiting import IS_IT_THERE
from pillarbox.telemetry import masked

FAILED = 2
JSON = "--json"
ASKED = "pillarbox.json_stands_among_the_arguments"

T = TypeVar("T")


class Commands(click.Group):
    """A group whose commands turn the library's errors, and the database's, into messages."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the arguments before the command, and remember whether JSON is asked for behind it."""
        asked = JSON in args
        context = reporting_errors(
            lambda: super(Commands, self).make_context(info_name, args, parent, **extra), asked=asked
        )
        context.meta[ASKED] = asked
        return context

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; usage errors stay click's own unless JSON was asked for."""
        return reporting_errors(lambda: super(Commands, self).invoke(ctx), asked=bool(ctx.meta.get(ASKED)))


def reporting_errors(work: Callable[[], T], *, asked: bool) -> T:
    """Do ``work``; an error is printed and ends the command with exit code 2.

    Args:
        work: what may fail.
        asked: whether JSON stands among the arguments, which a wrong one may have kept from being read.
    """
    try:
        return work()
    except click.UsageError as error:
        if not (asked or wants_json()):
            raise
        print_json(_as_json("UsageError", error.format_message()))
    except PillarboxError as error:
        _report(type(error).__name__, str(error))
    except SQLAlchemyError as error:
        _report("StoreUnavailableError", f"the database refused or cannot be reached: {_first_line(error)}")
    except UnicodeEncodeError as error:  # an argument of bytes that are no text
        _report("UsageError", f"{error.object!r:.200} holds what no database keeps as text")
    except BrokenPipeError:  # who reads stdout has gone, as with "| head": click ends quietly; servers' are wrapped
        raise
    except OSError as error:
        remedy = "" if error.filename is not None else f"; {IS_IT_THERE}"
        _report(type(error).__name__, f"{error}{remedy}")
    raise click.exceptions.Exit(FAILED)


def _report(kind: str, message: str) -> None:
    if wants_json():
        print_json(_as_json(kind, message))
    else:
        click.echo(f"Error: {masked(message)}", err=True)


def _as_json(kind: str, message: str) -> object:
    return {"error": {"type": kind, "message": message}}


def _first_line(error: SQLAlchemyError) -> str:
    """Return what the driver says, without the statement and its parameters."""
    cause: BaseException | None = getattr(error, "orig", None)
    lines = str(cause if cause is not None else error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
