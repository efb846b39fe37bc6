"""``pillarbox outbox purge`` and ``republish``: records that were published and are kept."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta

import click
from rich.console import Console
from rich.progress import Progress

from pillarbox.cli.durations import duration, instant
from pillarbox.cli.operators import by_option, reason_saying
from pillarbox.cli.output import print_json, print_line, wants_json
from pillarbox.cli.places import Place, at_a_place


@click.command()
@click.option("--older-than", type=duration, help="As in 7d; left out: what the program's relay keeps.")
@click.option("--dry-run", is_flag=True, help="Only count them.")
@at_a_place
async def purge(place: Place, older_than: timedelta | None, dry_run: bool) -> None:  # noqa: FBT001  # click's signature
    """Remove published records that are kept for longer than needed; what waits to be published stays."""
    if older_than is None and place.box is not None:
        older_than = place.box.settings.relay.keep
    if older_than is None:
        raise click.UsageError("give --older-than; there is no program whose relay says how long it keeps records")
    async with place.open() as control:
        count = await (control.outbox.count_older(older_than) if dry_run else control.outbox.purge(older_than))
    if wants_json():
        print_json({"would_purge" if dry_run else "purged": count})
    else:
        print_line(f"{count} published records {'would be' if dry_run else 'are'} removed")


@click.command()
@click.option("--since", type=instant, required=True, help="Published at this instant or later.")
@click.option("--until", type=instant, help="Published before this instant; left out: now.")
@click.option("--type", "of_type", metavar="NAME", help="Of this message type only.")
@click.option("--key", help="Of this key only.")
@click.option("--destination", help="Of this destination only, as in topic:order.")
@click.option("--dry-run", is_flag=True, help="Only count them.")
@reason_saying("Why; stands in the log with the number of records.")
@by_option
@at_a_place
async def republish(
    place: Place,
    *,
    since: datetime,
    until: datetime | None,
    of_type: str | None,
    key: str | None,
    destination: str | None,
    dry_run: bool,
    reason: str,
    by: str,
) -> None:
    """Publish kept records once more, in their old order: for a broker that lost what it had confirmed.

    They keep their ids; consumers that have processed them suppress them. Interrupted, it goes on where it stopped when
    it is given the same --since and the --until that it prints.
    """
    async with place.open() as control:
        found = await control.outbox.choose_kept(
            since=since, until=until, type=of_type, key=key, destination=destination
        )
        ending = found.wanted.until.isoformat()
        done = 0
        if not dry_run:
            if not wants_json():
                click.echo(f"should this be interrupted, give it again with --until {ending}", err=True)
            with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:
                bar = bars.add_task("republishing", total=found.count)
                async for batch in control.outbox.republish(found, by=by, reason=reason):
                    done += batch
                    bars.advance(bar, batch)
    if wants_json():
        told: dict[str, object] = {"since": since, "until": found.wanted.until, "by": by, "reason": reason}
        print_json({**told, "would_republish" if dry_run else "republished": found.count if dry_run else done})
    elif dry_run:
        print_line(f"{found.count} records would be published again")
    else:
        print_line(f"{done} records will be published again")
