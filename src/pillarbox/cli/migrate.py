"""``pillarbox migrate``: the tables of this release."""

from __future__ import annotations

import asyncio

import click

from pillarbox.cli.output import print_json, print_line, wants_json
from pillarbox.cli.places import Place, find_place, json_option
from pillarbox.relational import CURRENT_VERSION


@click.command()
@click.argument("program", metavar="[MODULE:BOX]", required=False)
@click.option("--app", metavar="MODULE:BOX", help="The same as the argument.")
@click.option("--store", metavar="URL", help="A store; left out: PILLARBOX_STORE.")
@click.option("--sql", is_flag=True, help="Print the statements instead of running them; connects to nothing.")
@json_option
def migrate(program: str | None, app: str | None, store: str | None, sql: bool) -> None:  # noqa: FBT001  # click's signature
    """Create the tables, or bring them up to this release. Safe to run many times, also at once."""
    if program is not None and app is not None:
        raise click.UsageError("name the program once")
    place = find_place(program or app, store)
    if sql:
        _print_script(place.store.migration_sql())
    else:
        _report(place, asyncio.run(_migrate(place)))


async def _migrate(place: Place) -> list[int]:
    try:
        return [migration.version for migration in await place.store.migrate()]
    finally:
        await place.store.close()


def _print_script(script: str) -> None:
    if wants_json():
        print_json({"sql": script, "version": CURRENT_VERSION})
    else:
        click.echo(script, nl=False)


def _report(place: Place, applied: list[int]) -> None:
    if wants_json():
        print_json({"store": place.url, "applied": applied, "version": CURRENT_VERSION})
    elif applied:
        print_line(f"{place.url}: brought to version {CURRENT_VERSION}")
    else:
        print_line(f"{place.url}: is at version {CURRENT_VERSION} already")
