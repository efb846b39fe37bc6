"""Durations on the command line (``90s``, ``15m``, ``36h``, ``30d``) and instants."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

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


def instant(text: str | datetime) -> datetime:
    """Read an instant with its time zone, as in ``2031-05-17T08:00:00Z``; the type of options.

    Raises:
        BadParameter: it has another form, or no time zone.
    """
    if isinstance(text, datetime):
        return text
    try:
        found = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no instant; write it as in 2031-05-17T08:00:00Z") from None
    if found.tzinfo is None:
        raise click.BadParameter(f"{text!r} has no time zone; add Z, or an offset as in +02:00")
    try:
        return found.astimezone(UTC)
    except OverflowError as error:
        raise click.BadParameter(f"{text!r} lies outside of the calendar in UTC") from error


def instant_or_age(text: str | datetime) -> datetime:
    """Read an instant, or how long ago it was, as in ``36h``; the type of options.

    Raises:
        BadParameter: it has another form.
    """
    if isinstance(text, str) and _FORM.fullmatch(text.strip()):
        return datetime.now(tz=UTC) - duration(text)
    return instant(text)
