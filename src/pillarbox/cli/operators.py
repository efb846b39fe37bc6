"""What commands have in common: who gives an order, and how many lines they show."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from typing import Any

import click

from pillarbox.audit import checked

limit_option = click.option("--limit", type=click.IntRange(1, 2**31 - 1), default=100, show_default=True)
"""How many a command shows at most."""


def by_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--by``: who decides, by default the user of the machine."""

    def somebody(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
        if not value.strip():
            raise click.UsageError("--by must name somebody")
        return _that_can_be_kept(value, by=value)

    option = click.option(
        "--by",
        metavar="WHO",
        default=_user,
        envvar="PILLARBOX_OPERATOR",
        callback=somebody,
        help="Who decides; left out: your user name.",
    )
    return option(command)


def reason_saying(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what gives a command ``--reason``, of which its help says ``text``."""

    def something(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
        if not value.strip():
            raise click.UsageError("--reason must say something")
        return _that_can_be_kept(value, reason=value)

    return click.option("--reason", required=True, callback=something, help=text)


reason_option = reason_saying("Why; kept with the record of the act.")
"""Gives a command ``--reason``: why."""


def _that_can_be_kept(value: str, *, by: str = "somebody", reason: str | None = None) -> str:
    try:
        checked(by=by, reason=reason)
    except ValueError as error:
        raise click.UsageError(f"--{str(error).replace('=', '', 1)}") from error
    return value


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"
