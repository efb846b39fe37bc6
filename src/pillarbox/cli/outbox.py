"""``pillarbox outbox``: what waits to be published, and what cannot be."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress

import click

from pillarbox.cli.operators import by_option, limit_option, reason_saying
from pillarbox.cli.output import plain, print_facts, print_json, print_line, print_table, wants_json
from pillarbox.cli.places import Place, at_a_place
from pillarbox.control import OutboxControl
from pillarbox.errors import NotFoundError
from pillarbox.outbox import OutboxState, ParkedRecord

PAGE = 500


@click.group()
def outbox() -> None:
    """Show what waits; retry or skip parked records."""


@outbox.command()
@at_a_place
async def state(place: Place) -> None:
    """Count pending, scheduled, parked and held records."""
    async with place.open() as control:
        found = await control.outbox.state()
    if wants_json():
        print_json(found)
    else:
        print_facts(_state_facts(found))


@outbox.command()
@limit_option
@click.option("--after", metavar="POSITION", type=int, default=0, help="Continue behind this position.")
@at_a_place
async def parked(place: Place, limit: int, after: int) -> None:
    """List records that their broker refused, oldest first."""
    async with place.open() as control:
        found = await control.outbox.parked(after=after, limit=limit)
    if wants_json():
        print_json([_parked_json(record) for record in found])
    elif not found:
        print_line("nothing is parked")
    else:
        print_table(
            ["position", "message", "type", "destination", "key", "parked at", "behind", "reason"],
            (
                [
                    record.position,
                    record.message.id,
                    record.message.type,
                    record.message.destination,
                    record.message.key,
                    record.parked_at,
                    record.behind,
                    record.reason,
                ]
                for record in found
            ),
        )


@outbox.command()
@click.argument("message_ids", metavar="[MESSAGE_ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every parked record.")
@at_a_place
async def retry(place: Place, message_ids: tuple[str, ...], everything: bool) -> None:  # noqa: FBT001  # click's signature
    """Publish parked records after all, and what waits behind them, in order.

    What its broker refuses again is parked again.
    """
    if everything == bool(message_ids):
        raise click.UsageError("name the messages, or give --all" + (", not both" if everything else ""))
    released = 0
    async with place.open() as control:
        wanted = [one async for one in _parked_heads(control.outbox, frozenset(message_ids))]
        for message_id in wanted:
            with suppress(NotFoundError):  # somebody else has decided about it meanwhile
                released += await control.outbox.retry(message_id)
    if wants_json():
        print_json({"retried": wanted if everything else list(dict.fromkeys(message_ids)), "released": released})
    else:
        print_line(f"{released} records will be published")


@outbox.command()
@click.argument("message_id")
@reason_saying("Why its consumers will not get it; kept with the record.")
@by_option
@at_a_place
async def skip(place: Place, message_id: str, reason: str, by: str) -> None:
    """Give up one parked record, so that what waits behind it is published.

    The record is kept, marked as skipped; its consumers will not get it.
    """
    async with place.open() as control:
        released = await control.outbox.skip(message_id, by=by, reason=reason)
    if wants_json():
        print_json({"skipped": message_id, "by": by, "reason": reason, "released": released})
    else:
        print_line(f"{message_id} is skipped; {released} records behind it will be published")


@click.command("new-epoch")
@reason_saying("Why; stands in the log with the number of keys.")
@by_option
@at_a_place
async def new_epoch(place: Place, reason: str, by: str) -> None:
    """Let the numbers of numbered destinations begin at 1 again, in an epoch that consumers can tell from the old one.

    After the database was restored from a backup, before anything is published.
    """
    async with place.open() as control:
        keys = await control.outbox.begin_epoch(by=by, reason=reason)
    if wants_json():
        print_json({"keys": keys, "by": by, "reason": reason})
    else:
        print_line(f"the numbers of {keys} keys begin at 1 again")


async def _parked_heads(control: OutboxControl, named: frozenset[str]) -> AsyncGenerator[str]:
    """Return the first parked record of each key, and those without one: releasing it releases the others.

    Only of those ``named``, if any are.

    Raises:
        NotFoundError: one of them is not parked.
    """
    keys = set[tuple[str, str]]()
    missing = set(named)
    after = 0
    while page := await control.parked(after=after, limit=PAGE):
        after = page[-1].position
        for message in (record.message for record in page if not named or record.message.id in named):
            missing.discard(message.id)
            if message.key is None:
                yield message.id
            elif (message.destination, message.key) not in keys:
                keys.add((message.destination, message.key))
                yield message.id
    if missing:
        raise NotFoundError(kind="parked record", identifier=min(missing))


def _state_facts(found: OutboxState) -> dict[str, object]:
    return {
        "pending": found.pending,
        "oldest pending": found.oldest_for,
        "scheduled": found.scheduled,
        "parked": found.parked,
        "held behind": found.held,
    }


def _parked_json(record: ParkedRecord) -> dict[str, object]:
    """Return a record without its body."""
    message = record.message
    return {
        "position": record.position,
        "message_id": message.id,
        "type": message.type,
        "destination": message.destination,
        "key": message.key,
        "headers": plain(message.headers),
        "body_bytes": len(message.body),
        "reason": record.reason,
        "parked_at": record.parked_at,
        "behind": record.behind,
    }
