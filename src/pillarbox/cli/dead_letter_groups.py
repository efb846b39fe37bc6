"""``pillarbox dead-letters stats``, ``groups`` and ``group``: many dead letters at a glance."""

from __future__ import annotations

import click

from pillarbox.cli.operators import by_option, limit_option
from pillarbox.cli.output import print_json, print_line, print_table, wants_json
from pillarbox.cli.places import Place, at_a_place
from pillarbox.deadletter import GroupFilter, GroupState

DECISIONS = ("resolve", "ignore", "reopen")
LONGEST_TEXT = 80


@click.command()
@at_a_place
async def stats(place: Place) -> None:
    """Count dead letters by consumer, type, state and reason, with the oldest first failure."""
    async with place.open() as control:
        found = await control.dead_letters.stats()
    if wants_json():
        print_json(found)
    elif not found:
        print_line("there are no dead letters")
    else:
        print_table(
            ["consumer", "type", "state", "reason", "count", "oldest failed"],
            ([one.consumer, one.type, one.state, one.reason, one.count, one.oldest_failed_at] for one in found),
        )


@click.command()
@click.option("--consumer", metavar="SERVICE/NAME", help="Only this consumer's.")
@click.option("--state", type=click.Choice([one.value for one in GroupState]), help="Only groups in this state.")
@limit_option
@at_a_place
async def groups(place: Place, consumer: str | None, state: str | None, limit: int) -> None:
    """List causes of failures, the one seen last first: how many letters they have, and whether they came back."""
    where = GroupFilter(consumer=consumer, state=None if state is None else GroupState(state))
    async with place.open() as control:
        found = await control.dead_letters.groups(where, limit=limit)
    if wants_json():
        print_json(found)
    elif not found:
        print_line("there are no such groups")
    else:
        print_table(
            ["group", "consumer", "type", "state", "dead", "came", "last seen", "error", "note"],
            (
                [
                    one.fingerprint,
                    one.consumer,
                    one.type,
                    f"{one.state}, came back" if one.regressed else one.state,
                    one.dead,
                    one.arrivals,
                    one.last_seen,
                    f"{one.error_type}: {one.example}"[:LONGEST_TEXT],
                    one.note,
                ]
                for one in found
            ),
        )


@click.command()
@click.argument("decision", metavar="DECISION", type=click.Choice([*DECISIONS, "note"]))
@click.argument("fingerprint")
@click.option("--consumer", metavar="SERVICE/NAME", help="Only this consumer's.")
@click.option("--note", help="What to write about it.")
@by_option
@at_a_place
async def group(
    place: Place, decision: str, fingerprint: str, *, consumer: str | None, note: str | None, by: str
) -> None:
    """Note what was decided about a cause.

    It is mended (resolve), known and not to be mended (ignore), or to be looked at again (reopen);
    or something is written about it (note).

    A letter that comes into a resolved group opens it again, marked as one that came back.
    """
    if decision == "note" and note is None:
        raise click.UsageError("give --note")
    async with place.open() as control:
        letters = control.dead_letters
        if decision == "note":
            count = await letters.note_group(fingerprint, note or "", by=by, consumer=consumer)
        else:
            decide = {"resolve": letters.resolve_group, "ignore": letters.ignore_group, "reopen": letters.reopen_group}
            count = await decide[decision](fingerprint, by=by, consumer=consumer, note=note or "")
    if wants_json():
        print_json({"decision": decision, "group": fingerprint, "groups": count, "by": by})
    else:
        print_line(f"noted about {count} {'group' if count == 1 else 'groups'}")
