"""``pillarbox consumers`` and ``pillarbox held``: who handles messages, and what they have put aside."""

from __future__ import annotations

import click

from pillarbox.cli.output import print_json, print_line, print_table, wants_json
from pillarbox.cli.places import Place, at_a_place
from pillarbox.control import ConsumerView
from pillarbox.holding import HoldState

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
            ["consumer", "mode", "channels", "types", "queued", "held", "state"],
            (
                [one.identity or NOBODY, one.mode, one.channels, one.types, one.queued, one.held, _state(one)]
                for one in found
            ),
        )


def _state(one: ConsumerView) -> str:
    if one.stopped:
        return "stopped by a dead letter"
    if one.paused_by is not None:
        return f"paused, {one.paused_by} is down"
    return "" if one.known else "never started"


@click.command()
@click.option("--consumer", metavar="SERVICE/NAME", help="Only this consumer's.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@at_a_place
async def held(place: Place, consumer: str | None, limit: int) -> None:
    """List held keys, longest held first.

    They wait for a retry, for what comes before their head, or for a decision about a dead letter.
    """
    async with place.open() as control:
        found = await control.consumers.held_keys(consumer, limit=limit)
    if wants_json():
        print_json(found)
    elif not found:
        print_line("no key is held")
    else:
        print_table(
            ["consumer", "key", "state", "messages", "since", "due", "waits for"],
            (
                [
                    one.consumer,
                    one.hold_key,
                    one.state,
                    one.messages,
                    one.since,
                    None if one.state is HoldState.BLOCKED else one.due_at,
                    one.waits_for,
                ]
                for one in found
            ),
        )
