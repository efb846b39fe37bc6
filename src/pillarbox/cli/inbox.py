"""``pillarbox inbox``: the ids of processed messages."""

from __future__ import annotations

from datetime import timedelta

import click

from pillarbox.cli.durations import duration
from pillarbox.cli.output import print_json, print_line, print_table, wants_json
from pillarbox.cli.places import Place, at_a_place


@click.group()
def inbox() -> None:
    """Show and purge the ids of processed messages."""


@inbox.command()
@at_a_place
async def stats(place: Place) -> None:
    """Count the ids that each consumer keeps; looks at all of them."""
    async with place.open() as control:
        found = await control.inbox.stats()
    if wants_json():
        print_json(found)
    elif not found:
        print_line("no inbox keeps an id")
    else:
        print_table(["consumer", "ids", "oldest"], ([one.consumer, one.ids, one.oldest_at] for one in found))


@inbox.command()
@click.option("--older-than", type=duration, required=True, help="As in 30d; one day at least.")
@at_a_place
async def purge(place: Place, older_than: timedelta) -> None:
    """Remove old ids; a message whose id is removed is handled again if it comes again.

    Keep ids for longer than messages are retried, held and replayed.
    """
    async with place.open() as control:
        purged = await control.inbox.purge(older_than)
    if wants_json():
        print_json({"purged": purged})
    else:
        print_line(f"{purged} ids are removed")
