"""``pillarbox gaps``: numbers that consumers wait for, and how they go on."""

from __future__ import annotations

import click

from pillarbox.app.sequences import kept_at
from pillarbox.cli.operators import by_option, limit_option, reason_saying
from pillarbox.cli.output import print_json, print_line, print_table, wants_json
from pillarbox.cli.places import Place, at_a_place
from pillarbox.consumer.positions import Gap


@click.group()
def gaps() -> None:
    """Show gaps between numbers; skip or fetch what is missing."""


@gaps.command("list")
@click.option("--consumer", metavar="SERVICE/NAME", help="Only this consumer's.")
@limit_option
@at_a_place
async def list_(place: Place, consumer: str | None, limit: int) -> None:
    """List gaps, those that have stalled longest first."""
    async with place.open() as control:
        found = await control.gaps.list(consumer, limit=limit)
    if wants_json():
        print_json([_facts(gap) for gap in found])
    elif not found:
        print_line("no message waits for an earlier number")
    else:
        names = ["consumer", "channel", "key", "missing", "buffered", "stalled_for", "told", "held"]
        print_table(
            ["consumer", "channel", "key", "missing", "waiting", "stalled for", "told of", "key held"],
            ([_facts(gap)[name] for name in names] for gap in found),
        )


@gaps.command()
@click.argument("consumer", metavar="SERVICE/NAME")
@click.argument("channel")
@click.argument("key")
@reason_saying("Why the consumer goes on without them; kept with the numbers.")
@click.option("--force", is_flag=True, help="Also what may wait in the hold of its key, or in a handler's hands.")
@by_option
@at_a_place
async def skip(place: Place, *, consumer: str, channel: str, key: str, reason: str, force: bool, by: str) -> None:
    """Go on without the numbers that are missing before the first message that waits.

    What comes of them after all becomes a dead letter with the reason "late".
    """
    async with place.open() as control:
        closed = await control.gaps.skip(consumer, channel, key, by=by, reason=reason, force=force)
    if wants_json():
        print_json({"skipped": [closed.first, closed.last], "by": by, "reason": reason, "released": closed.count})
    else:
        print_line(f"numbers {closed.first} to {closed.last} are skipped; {closed.count} messages go on")


@gaps.command()
@click.argument("consumer", metavar="SERVICE/NAME")
@click.argument("channel")
@click.argument("key")
@click.option("--from", "source", metavar="URL", help="The producer's store; left out: this one.")
@at_a_place
async def fetch(place: Place, consumer: str, channel: str, key: str, source: str | None) -> None:
    """Fetch the numbers that are missing where their producer keeps what it published."""
    async with place.open() as control:
        kept = None if source is None else kept_at(source)
        closed = await control.gaps.fetch(consumer, channel, key, kept=kept)
    if wants_json():
        print_json({"asked": [closed.first, closed.last], "fetched": closed.count})
    else:
        print_line(f"of numbers {closed.first} to {closed.last}, {closed.count} messages were kept and are handled now")


def _facts(gap: Gap) -> dict[str, object]:
    missing = gap.missing
    return {
        "consumer": gap.consumer,
        "channel": gap.line[0],
        "key": gap.line[1],
        "missing": [] if missing is None else [missing.first.number, missing.last],
        "buffered": gap.buffered,
        "stalled_for": gap.stalled_for,
        "told": gap.told_for is not None,
        "held": gap.held,
    }
