"""What commands have in common: who gives an order, and how many lines they show."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from typing import Any

import click

limit_option = click.option("--limit", type=click.IntRange(1, 2**31 - 1), default=100, show_default=True)
"""How many a command shows at most."""


def by_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--by``: who decides, by default the user of the machine."""

    def somebody(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
        if not value.strip():
            raise click.UsageError("--by must name somebody")
        return value

    option = click.option(
        "--by",
        metavar="WHO",
        default=_user,
        envvar="PILLARBOX_OPERATOR",
        callback=somebody,
        help="Who decides; left out: your user name.",
    )
    return option(command)


def reason_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--reason``: why."""

    def something(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
        if not value.strip():
            raise click.UsageError("--reason must say something")
        return value

    option = click.option("--reason", required=True, callback=something, help="Why; kept with the record of the act.")
    return option(command)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"
