"""Durations on the command line: ``90s``, ``15m``, ``36h``, ``30d``."""

from __future__ import annotations

import re
from datetime import timedelta

import click

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_FORM = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


def duration(text: str | timedelta) -> timedelta:
    """Read a number and its unit; the type of options.

    Raises:
        BadParameter: it has another form.
    """
    if isinstance(text, timedelta):
        return text
    form = _FORM.fullmatch(text.strip())
    if form is None:
        raise click.BadParameter(f"{text!r} is no duration; write a number and s, m, h or d, as in 30d")
    try:
        return timedelta(**{UNITS[form[2]]: float(form[1])})
    except OverflowError as error:
        raise click.BadParameter(f"{text!r} is too long") from error
