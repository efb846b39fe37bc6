"""The options that say which dead letters a command is about."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from pillarbox.cli.durations import instant_or_age
from pillarbox.deadletter import DeadLetterFilter

_OPTIONS = (
    click.option("--type", "type", metavar="NAME", help="Only this message type."),
    click.option("--consumer", metavar="SERVICE/NAME", help="Only this consumer's."),
    click.option("--group", metavar="FINGERPRINT", help="Only failures of this cause."),
    click.option("--key", help="Only messages with this key."),
    click.option("--why", "reason", metavar="REASON", help="Only letters that are dead for this, as in exhausted."),
    click.option("--since", type=instant_or_age, help="Failed last at this instant or later; an age, too, as in 2h."),
    click.option("--until", type=instant_or_age, help="Failed last before this instant; an age, too, as in 2h."),
    click.option("--text", help="Only letters with this in the text of a failure; case does not count."),
)
_NAMES = ("type", "consumer", "group", "key", "reason", "since", "until", "text")


def letter_filter(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a filter, which reach it as ``where``."""

    @wraps(command)
    def filtering(*args: Any, **options: Any) -> Any:
        where = DeadLetterFilter(**{name: options.pop(name) for name in _NAMES})
        return command(*args, where=where, **options)

    for option in reversed(_OPTIONS):
        filtering = option(filtering)
    return filtering
