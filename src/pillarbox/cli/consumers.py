"""``pillarbox consumers``: who handles messages, and what waits for them."""

from __future__ import annotations

import click

from pillarbox.cli.output import print_json, print_line, print_table, wants_json
from pillarbox.cli.places import Place, at_a_place
from pillarbox.control import ConsumerView

NOBODY = "(nobody yet)"


@click.command()
@at_a_place
async def consumers(place: Place) -> None:
    """List consumers with their channels and what waits for them.

    Modes and types are known only where a program is named with --app.
    """
    declared = () if place.box is None else place.box.consumers()
    async with place.open() as control:
        found = await control.consumers.list(declared)
    if wants_json():
        print_json(found)
    elif not found:
        print_line("no consumer is known: none has been started yet")
    else:
        print_table(
            ["consumer", "mode", "channels", "types", "queued", "held", "processes", "state"],
            (
                [
                    one.identity or NOBODY,
                    one.mode,
                    one.channels,
                    one.types,
                    one.queued,
                    one.held,
                    one.processes,
                    _state(one),
                ]
                for one in found
            ),
        )


def _state(one: ConsumerView) -> str:
    if one.stopped:
        return "stopped by a dead letter"
    if one.paused_by is not None:
        return f"paused, {one.paused_by} is down"
    if not one.known:
        return "never started"
    return "" if one.processes or not one.identity else "no process has it"
