"""``pillarbox held``: keys that wait in a consumer, and what to do about them."""

from __future__ import annotations

import click

from pillarbox.cli.operators import by_option, limit_option, reason_option
from pillarbox.cli.output import print_json, print_line, print_table, wants_json
from pillarbox.cli.places import Place, at_a_place
from pillarbox.holding import HoldState


@click.group()
def held() -> None:
    """Work with keys that wait in a consumer.

    They wait for a retry, for what comes before their head, or for a decision about a dead letter.
    """


@held.command(name="list")
@click.option("--consumer", metavar="SERVICE/NAME", help="Only this consumer's.")
@limit_option
@at_a_place
async def list_(place: Place, consumer: str | None, limit: int) -> None:
    """List held keys, longest held first."""
    async with place.open() as control:
        found = await control.held.list(consumer, limit=limit)
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


@held.command()
@click.argument("consumer", metavar="SERVICE/NAME")
@click.argument("key")
@reason_option
@by_option
@at_a_place
async def release(place: Place, consumer: str, key: str, reason: str, by: str) -> None:
    """Let a KEY go on at once, as pillarbox held list shows it.

    A dead letter that it waits for stays dead; the later messages of the key overtake it.
    """
    async with place.open() as control:
        await control.held.release(consumer, key, by=by, reason=reason)
    if wants_json():
        print_json({"released": key, "consumer": consumer, "by": by, "reason": reason})
    else:
        print_line(f"{key} of {consumer} goes on")


@held.command()
@click.argument("consumer", metavar="SERVICE/NAME")
@click.argument("key")
@reason_option
@by_option
@at_a_place
async def skip(place: Place, consumer: str, key: str, reason: str, by: str) -> None:
    """Give up what a KEY waits for, so that the others go on in their order.

    It is kept as a discarded dead letter; duplicates of it are not handled.
    """
    async with place.open() as control:
        letter = await control.held.skip(consumer, key, by=by, reason=reason)
    if wants_json():
        print_json({"skipped": letter.id, "message_id": letter.message.id, "by": by, "reason": reason})
    else:
        print_line(f"message {letter.message.id} is given up, as dead letter {letter.id}; {key} of {consumer} goes on")
