"""``pillarbox dead-letters``: what could not be handled."""

from __future__ import annotations

import base64

import click

from pillarbox.cli.operators import by_option
from pillarbox.cli.output import plain, print_facts, print_json, print_line, print_table, wants_json
from pillarbox.cli.places import Place, at_a_place
from pillarbox.deadletter import DeadLetter, DeadLetterFilter, DeadLetterState
from pillarbox.holding import FailedAttempt

ANY = "any"


@click.group(name="dead-letters")
def dead_letters() -> None:
    """List, show and replay messages that could not be handled."""


@dead_letters.command(name="list")
@click.option("--type", "message_type", metavar="NAME", help="Only this message type.")
@click.option("--consumer", metavar="SERVICE/NAME", help="Only this consumer's.")
@click.option("--group", metavar="FINGERPRINT", help="Only failures of this cause.")
@click.option("--key", help="Only messages with this key.")
@click.option(
    "--state",
    type=click.Choice([*(one.value for one in DeadLetterState), ANY]),
    default=DeadLetterState.DEAD.value,
    show_default=True,
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--after", metavar="ID", type=int, default=0, help="Continue behind this letter.")
@at_a_place
async def list_(
    place: Place, message_type: str | None, state: str, limit: int, after: int, **where: str | None
) -> None:
    """List dead letters, oldest first."""
    wanted = DeadLetterFilter(type=message_type, state=None if state == ANY else DeadLetterState(state), **where)
    async with place.open() as control:
        found = await control.dead_letters.list(wanted, after=after, limit=limit)
    if wants_json():
        print_json([_facts(letter) for letter in found])
    elif not found:
        print_line("there are no such dead letters")
    else:
        print_table(
            ["id", "consumer", "type", "key", "state", "reason", "attempts", "last failed", "error"],
            (
                [
                    letter.id,
                    letter.consumer,
                    letter.message.type,
                    letter.message.key,
                    letter.state,
                    letter.reason,
                    letter.attempts,
                    letter.last_failed_at,
                    _error(letter),
                ]
                for letter in found
            ),
        )


@dead_letters.command()
@click.argument("letter_id", type=int)
@click.option("--body", "with_body", is_flag=True, help="Show the message's body, too.")
@at_a_place
async def show(place: Place, letter_id: int, with_body: bool) -> None:  # noqa: FBT001  # click's signature
    """Show one dead letter with its history and its last stack."""
    async with place.open() as control:
        letter = await control.dead_letters.get(letter_id)
    facts = _facts(letter) | ({"body": _body(letter.message.body)} if with_body else {})
    if wants_json():
        print_json(facts | {"history": [_attempt(one) for one in letter.history], "stack": letter.stack})
        return
    print_facts({name: value for name, value in facts.items() if name != "headers"})
    for name, value in letter.message.headers.items():
        print_line(f"  {name}: {value}")
    for one in letter.history:
        print_line(f"attempt {one.attempt} at {one.at:%Y-%m-%d %H:%M:%S}: {one.error_type}: {one.error}")
    print_line(letter.stack)


@dead_letters.command()
@click.argument("letter_ids", metavar="LETTER_ID...", type=int, nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Also letters older than what the inbox is sure to remember.")
@by_option
@at_a_place
async def replay(place: Place, letter_ids: tuple[int, ...], by: str, force: bool) -> None:  # noqa: FBT001  # click's signature
    """Make dead letters due again, for the one consumer that could not handle them, at the head of their key."""
    async with place.open() as control:
        replayed = [
            await control.dead_letters.replay(letter_id, by=by, force=force) for letter_id in dict.fromkeys(letter_ids)
        ]
    if wants_json():
        print_json({"replayed": [letter.id for letter in replayed], "by": by})
    else:
        for letter in replayed:
            print_line(f"{letter.id} is due again for {letter.consumer}")


@dead_letters.command()
@click.argument("letter_ids", metavar="LETTER_ID...", type=int, nargs=-1, required=True)
@by_option
@at_a_place
async def discard(place: Place, letter_ids: tuple[int, ...], by: str) -> None:
    """Decide that dead letters will not be handled: what they block goes on without them."""
    async with place.open() as control:
        discarded = [await control.dead_letters.discard(letter_id, by=by) for letter_id in dict.fromkeys(letter_ids)]
    if wants_json():
        print_json({"discarded": [letter.id for letter in discarded], "by": by})
    else:
        for letter in discarded:
            print_line(f"{letter.id} will not be handled by {letter.consumer}")


def _facts(letter: DeadLetter) -> dict[str, object]:
    """Return a letter without its body and its stack."""
    message = letter.message
    return {
        "id": letter.id,
        "consumer": letter.consumer,
        "state": letter.state.value,
        "reason": letter.reason,
        "message_id": message.id,
        "type": message.type,
        "destination": message.destination,
        "key": message.key,
        "content_type": message.content_type,
        "headers": plain(message.headers),
        "body_bytes": len(message.body),
        "attempts": letter.attempts,
        "error": _error(letter),
        "group": letter.fingerprint,
        "first_failed_at": letter.first_failed_at,
        "last_failed_at": letter.last_failed_at,
        "replays": letter.replays,
    }


def _attempt(one: FailedAttempt) -> dict[str, object]:
    return {"attempt": one.attempt, "at": one.at, "error": f"{one.error_type}: {one.error}"}


def _error(letter: DeadLetter) -> str:
    return f"{letter.error_type}: {letter.error}" if letter.error_type else letter.reason


def _body(body: bytes) -> str:
    """Return a body as text where it is text, else as base64 that says so."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(body).decode()}"
