"""``pillarbox dead-letters``: what could not be handled."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import timedelta
from typing import BinaryIO

import click
import msgspec

from pillarbox.audit import RecordedAct
from pillarbox.cli.durations import duration
from pillarbox.cli.letter_filters import letter_filter
from pillarbox.cli.operators import by_option, limit_option, reason_option
from pillarbox.cli.output import plain, print_facts, print_json, print_line, print_table, wants_json
from pillarbox.cli.places import Place, at_a_place
from pillarbox.deadletter import DeadLetter, DeadLetterFilter, DeadLetterState
from pillarbox.deadletter.decisions import LETTER
from pillarbox.deadletter.editing import Edit
from pillarbox.holding import FailedAttempt

ANY = "any"


@click.group(name="dead-letters")
def dead_letters() -> None:
    """Work with messages that could not be handled."""


@dead_letters.command(name="list")
@letter_filter
@click.option(
    "--state",
    type=click.Choice([*(one.value for one in DeadLetterState), ANY]),
    default=DeadLetterState.DEAD.value,
    show_default=True,
)
@limit_option
@click.option("--after", metavar="ID", type=int, default=0, help="Continue behind this letter.")
@at_a_place
async def list_(place: Place, where: DeadLetterFilter, state: str, limit: int, after: int) -> None:
    """List dead letters, oldest first, without what they carry."""
    wanted = replace(where, state=None if state == ANY else DeadLetterState(state))
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
@click.option("--body", "with_body", is_flag=True, help="Show the message's body, and what edits changed in it.")
@click.option("--headers", "with_headers", is_flag=True, help="Show the values of the message's headers.")
@at_a_place
async def show(place: Place, letter_id: int, *, with_body: bool, with_headers: bool) -> None:
    """Show one dead letter with its history, its last stack and what was done about it."""
    async with place.open() as control:
        letter = await control.dead_letters.get(letter_id)
        acts = await control.dead_letters.acts(letter_id)
        edits = await control.dead_letters.edits(letter_id)
    facts = _facts(letter)
    if with_headers:
        facts["headers"] = plain(letter.message.headers)
    if with_body:
        facts |= {"body": _body(letter.message.body), "edits": [_edit(one) for one in edits]}
    if wants_json():
        told = {"history": [_attempt(one) for one in letter.history], "acts": [_act(one) for one in acts]}
        print_json(facts | told | {"stack": letter.stack})
        return
    print_facts({name: value for name, value in facts.items() if name != "edits"})
    for done in acts:
        what = done.act.what if done.act.kind == LETTER else f"{done.act.what} ({done.act.kind} {done.act.subject})"
        print_line(f"{what} by {done.act.by} at {done.at:%Y-%m-%d %H:%M:%S}: {done.act.reason or '-'}")
    for change in (change for edit in edits for change in edit.changes) if with_body else ():
        print_line(f"edited {change.path or '/'}: {change.before} -> {change.after}")
    for one in letter.history:
        print_line(f"attempt {one.attempt} at {one.at:%Y-%m-%d %H:%M:%S}: {one.error_type}: {one.error}")
    print_line(letter.stack)


@dead_letters.command()
@click.argument("letter_ids", metavar="LETTER_ID...", type=int, nargs=-1, required=True)
@click.option(
    "--force", is_flag=True, help="Also letters replayed too often, or older than what the inbox is sure to remember."
)
@by_option
@at_a_place
async def replay(place: Place, letter_ids: tuple[int, ...], *, force: bool, by: str) -> None:
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
@click.argument("letter_id", type=int)
@reason_option
@by_option
@at_a_place
async def discard(place: Place, letter_id: int, reason: str, by: str) -> None:
    """Give one dead letter up: its key goes on with what is behind it, and a late duplicate of it is not handled."""
    async with place.open() as control:
        letter = await control.dead_letters.discard(letter_id, reason=reason, by=by)
    if wants_json():
        print_json({"discarded": letter.id, "by": by, "reason": reason})
    else:
        print_line(f"{letter.id} is given up; what is behind it goes on")


@dead_letters.command()
@click.argument("letter_id", type=int)
@click.option("--body", "body_file", type=click.File("rb"), help="A file with the whole new body; - is stdin.")
@click.option("--patch", metavar="JSON", help="What to merge into a JSON body; null takes a name away.")
@reason_option
@by_option
@at_a_place
async def edit(
    place: Place, letter_id: int, *, body_file: BinaryIO | None, patch: str | None, reason: str, by: str
) -> None:
    """Give one dead letter another body, to be replayed then; the delivered one is kept beside it.

    With --app the new body must fit the type of the message.
    """
    if (body_file is None) == (patch is None):
        raise click.UsageError("give --body or --patch")
    merged = None if patch is None else _patch(patch)
    body = None if body_file is None else body_file.read()
    async with place.open() as control:
        letter = await control.dead_letters.edit(letter_id, body, patch=merged, reason=reason, by=by)
        changes = (await control.dead_letters.edits(letter_id))[-1].changes
    if wants_json():
        print_json({"edited": letter.id, "changed": [change.path for change in changes], "by": by, "reason": reason})
    else:
        print_line(f"{letter.id} is edited: {', '.join(change.path for change in changes) or 'its bytes'}")


@dead_letters.command()
@click.option("--older-than", type=duration, help="Letters whose last failure is longer ago, as in 30d.")
@click.option("--acts-older-than", type=duration, help="Who did what, to anything, longer ago, as in 2000d.")
@by_option
@at_a_place
async def purge(place: Place, older_than: timedelta | None, acts_older_than: timedelta | None, by: str) -> None:
    """Remove resolved and discarded letters, or old acts; what is dead or being replayed is never removed.

    With letters go the replay runs that ended as long ago and have none of their letters left.
    """
    if older_than is None and acts_older_than is None:
        raise click.UsageError("give --older-than or --acts-older-than")
    purged: dict[str, int] = {}
    async with place.open() as control:
        if older_than is not None:
            purged["letters"] = await control.dead_letters.purge(older_than, by=by)
        if acts_older_than is not None:
            purged["acts"] = await control.dead_letters.purge_acts(acts_older_than, by=by)
    if wants_json():
        print_json({"purged": purged.get("letters", 0), "purged_acts": purged.get("acts", 0)})
    else:
        for what, count in purged.items():
            print_line(f"{count} {what} are removed")


def _patch(text: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise click.UsageError(f"--patch is no JSON object: {error}") from None


def _facts(letter: DeadLetter) -> dict[str, object]:
    """Return a letter without its body, the values of its headers, and its stack."""
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
        "headers": sorted(message.headers),
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


def _act(one: RecordedAct) -> dict[str, object]:
    run = {} if one.act.kind == LETTER else {"run": one.act.subject}
    return {"at": one.at, "by": one.act.by, "what": one.act.what, "reason": one.act.reason, **run}


def _edit(one: Edit) -> dict[str, object]:
    return {"at": one.at, "by": one.by, "reason": one.reason, "before": _body(one.before), "changes": one.changes}


def _error(letter: DeadLetter) -> str:
    return f"{letter.error_type}: {letter.error}" if letter.error_type else letter.reason


def _body(body: bytes) -> str:
    """Return a body as text where it is text, else as base64 that says so."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(body).decode()}"
