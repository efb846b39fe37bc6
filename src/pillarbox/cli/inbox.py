"""``pillarbox inbox``: the ids of processed messages."""

from __future__ import annotations

import sys
from datetime import timedelta

import click
from rich.console import Console
from rich.progress import Progress

from pillarbox.cli.durations import duration
from pillarbox.cli.output import print_json, print_line, print_table, wants_json
from pillarbox.cli.places import Place, at_a_place
from pillarbox.consumer.remembering import shortest_retention
from pillarbox.control import InboxControl
from pillarbox.control.inbox import SHORTEST_RETENTION

AS_IN = "As in 30d; left out: what the program keeps, or 30d."


@click.group()
def inbox() -> None:
    """Show and purge the ids of processed messages."""


@inbox.command()
@click.option("--older-than", type=duration, help=f"Count as removable what is older. {AS_IN}")
@at_a_place
async def stats(place: Place, older_than: timedelta | None) -> None:
    """Count what each consumer's inbox keeps, and what the next purge would remove; looks at all of it."""
    async with place.open() as control:
        found = await control.inbox.stats(older_than)
    if wants_json():
        print_json(found)
    elif not found:
        print_line("no inbox keeps an id")
    else:
        print_table(
            ["consumer", "ids", "business keys", "oldest", "removable"],
            ([one.consumer, one.ids, one.business_keys, one.oldest_at, one.removable] for one in found),
        )


@inbox.command()
@click.option("--older-than", type=duration, help=f"{AS_IN} At least what the program's consumers need, and one day.")
@click.option("--dry-run", is_flag=True, help="Only count them.")
@at_a_place
async def purge(place: Place, older_than: timedelta | None, dry_run: bool) -> None:  # noqa: FBT001  # click's signature
    """Remove old ids; a message whose id is removed is handled again if it comes again.

    Running consumers do it by themselves. What waits in holding, or as a dead letter that may be replayed, stays.
    """
    if older_than is None and (older_than := place.inbox.keep) is None:
        raise click.UsageError("give --older-than; the program keeps ids for ever")
    at_least = SHORTEST_RETENTION
    if place.box is not None:
        at_least = shortest_retention(place.box.consumers(), place.inbox)
    async with place.open() as control:
        if dry_run:
            count = await control.inbox.count_older(older_than, at_least=at_least)
        else:
            count = await _purge(control.inbox, older_than, at_least)
    if wants_json():
        print_json({"would_purge" if dry_run else "purged": count})
    else:
        print_line(f"{count} ids {'would be' if dry_run else 'are'} removed")


async def _purge(control: InboxControl, older_than: timedelta, at_least: timedelta) -> int:
    """Purge, with a bar where somebody looks on: only then is it worth it to count before."""
    purged = 0
    watched = is_watched()
    total = await control.count_older(older_than, at_least=at_least) if watched else None
    with Progress(console=Console(stderr=True), disable=not watched) as bars:
        bar = bars.add_task("purging", total=total)
        async for batch in control.purge(older_than, at_least=at_least):
            purged += batch
            bars.advance(bar, batch)
    return purged


def is_watched() -> bool:
    """Tell whether a person sees what is printed beside the answer."""
    return sys.stderr.isatty()
