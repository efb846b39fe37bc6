"""``pillarbox flow``: choreography as a graph, as traces, and where it is stuck."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import click

from pillarbox.app import Pillarbox
from pillarbox.app.controlling import flows_of
from pillarbox.app.places import store_at
from pillarbox.cli.operators import by_option, limit_option, reason_option
from pillarbox.cli.output import print_json, print_line, print_table, wants_json
from pillarbox.cli.places import Place, at_a_place, json_option, load_box
from pillarbox.control import Control
from pillarbox.errors import ConfigurationError, NotFoundError
from pillarbox.flow import FlowProblem, Flows, Graph
from pillarbox.flow.checks import ProblemSeverity, check

APPS_HELP = "The box of a program, as in shop.app:box; several make one graph."


def _apps_option(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--app", "apps", metavar="MODULE:BOX", multiple=True, required=required, help=APPS_HELP)


@click.group()
def flow() -> None:
    """Show what reacts to what, and what did not come."""


@flow.command()
@_apps_option(required=False)
@click.option("--store", metavar="URL", help="A store: the consumers of every service that has run on it.")
@json_option
def graph(apps: tuple[str, ...], store: str | None) -> None:
    """Print who hears what and publishes what, as a Mermaid flowchart.

    Of programs no database is opened.
    """
    if bool(apps) is (store is not None):
        raise click.UsageError("give --app, once or more, or --store")
    found = asyncio.run(_stored(store)) if store is not None else _merged([load_box(app) for app in apps])
    if wants_json():
        print_json(found.as_dict())
    else:
        click.echo(found.mermaid(), nl=False)


@flow.command("check")
@_apps_option(required=True)
@json_option
def check_(apps: tuple[str, ...]) -> None:
    """Look for what cannot work, or does not; exit with 1 if there is anything.

    No database is opened. Give the programs of all services that take part: what none of them does is taken to be
    missing. Hints do not count.
    """
    boxes = [load_box(app) for app in apps]
    declared = [one for box in boxes for one in box.flows.declared]
    if not declared:
        raise ConfigurationError(f"no flow is declared in {', '.join(apps)}; declare one with box.flow(…)")
    problems = check(declared, _merged(boxes))
    _show(problems)
    if any(one.severity is not ProblemSeverity.HINT for one in problems):
        raise click.exceptions.Exit(1)


def _show(problems: tuple[FlowProblem, ...]) -> None:
    if wants_json():
        print_json(problems)
    elif not problems:
        print_line("nothing is wrong, as far as the graph tells")
    else:
        for one in problems:
            print_line(f"{one.severity.value}: {one.flow}: {one.what} [{one.code}]")


@flow.command()
@click.argument("correlation_id", metavar="ID")
@at_a_place
async def trace(place: Place, correlation_id: str) -> None:
    """Print one process as a tree: who caused whom, and what consumers made of it.

    ID is what all its messages share: the id of the first one.
    """
    async with place.open() as control:
        found = await _flows(place, control).trace(correlation_id)
    if not found.roots:
        raise NotFoundError(kind="process", identifier=correlation_id)
    if wants_json():
        print_json(found)
    else:
        print_line(str(found))


@flow.command()
@limit_option
@at_a_place
async def stuck(place: Place, limit: int) -> None:
    """List processes of which something did not come in time, started first first."""
    async with place.open() as control:
        found = await _flows(place, control).stuck(limit=limit)
    if wants_json():
        print_json(found)
    elif not found:
        print_line("no process is stuck")
    else:
        print_table(
            ["flow", "process", "started at", "stuck for", "missing"],
            ([one.flow, one.correlation_id, one.started_at, one.stuck_for, "; ".join(one.missing)] for one in found),
        )


@flow.command()
@click.argument("name", metavar="SERVICE/NAME")
@click.argument("correlation_id", metavar="[ID]", required=False)
@click.option("--all", "every", is_flag=True, help="Every process of the flow that is stuck, in place of one.")
@reason_option
@by_option
@at_a_place
async def close(place: Place, *, name: str, correlation_id: str | None, every: bool, reason: str, by: str) -> None:
    """Let a process end although its end did not come, since somebody has seen to it."""
    if every is (correlation_id is not None):
        raise click.UsageError("give the ID of a process, or --all")
    async with place.open() as control:
        flows, closed = _flows(place, control), 1
        if correlation_id is None:
            closed = await flows.close_all(name, reason=reason, by=by)
            if not closed:
                raise NotFoundError(kind="stuck process of flow", identifier=name)
        else:
            await flows.close(name, correlation_id, reason=reason, by=by)
    if wants_json():
        print_json({"flow": name, "closed": closed, "by": by, "reason": reason})
    else:
        print_line(f"{name}: nothing more is waited for in {closed} processes")


def _flows(place: Place, control: Control) -> Flows:
    return control.flows if place.box is None else place.box.flows


def _merged(boxes: list[Pillarbox]) -> Graph:
    return Graph().merged(*(box.flows.graph() for box in boxes))


async def _stored(url: str | None) -> Graph:
    store = store_at(url)
    async with Place(store=store).lend():
        await store.check_schema()
        return await flows_of(store).known()
