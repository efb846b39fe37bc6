"""``pillarbox calls``: calls to the outside of which nobody knows whether they were made."""

from __future__ import annotations

import json
from typing import Any

import click

from pillarbox.cli.output import print_json, print_line, print_table, wants_json
from pillarbox.cli.places import Place, at_a_place


def json_value(text: str) -> Any:
    """Read a JSON value; the type of an argument.

    Raises:
        BadParameter: it is none.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no JSON ({error}); quote texts, as in '\"r-1\"'") from error


@click.group()
def calls() -> None:
    """List and decide calls to the outside that are in doubt."""


@calls.command(name="list")
@at_a_place
async def list_(place: Place) -> None:
    """List calls in doubt, those begun first first."""
    async with place.open() as control:
        found = await control.calls.in_doubt()
    if wants_json():
        print_json(found)
    elif not found:
        print_line("no call is in doubt")
    else:
        print_table(["key", "begun before"], ([one.key, one.age] for one in found))


@calls.command()
@click.argument("key")
@click.argument("answer", type=json_value)
@click.option("--instead", is_flag=True, help="Put it in the place of an answer that is stored.")
@at_a_place
async def record(place: Place, key: str, answer: Any, instead: bool) -> None:  # noqa: FBT001  # click's signature
    """Store the answer that a call had, as JSON; then replay the dead letter.

    For boxes whose codec is JSON; the answer must fit the class that the handler expects.
    """
    async with place.open() as control:
        await control.calls.record(key, answer, instead=instead)
    if wants_json():
        print_json({"recorded": key})
    else:
        print_line(f"the answer of {key} is stored; replay the dead letter")


@calls.command()
@click.argument("key")
@at_a_place
async def allow(place: Place, key: str) -> None:
    """Have a call made anew at the next try, since the other side has no trace of it; then replay the dead letter."""
    async with place.open() as control:
        await control.calls.allow(key)
    if wants_json():
        print_json({"allowed": key})
    else:
        print_line(f"{key} is called anew at the next try; replay the dead letter")
