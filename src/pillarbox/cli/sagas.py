"""``pillarbox saga``: long processes, where they stand, and what to do about them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import click

from pillarbox.app.places import store_at
from pillarbox.cli.durations import duration
from pillarbox.cli.operators import by_option, limit_option, reason_option
from pillarbox.cli.output import print_facts, print_json, print_line, print_table, wants_json
from pillarbox.cli.places import Place, at_a_place, json_option, load_box
from pillarbox.control import Control
from pillarbox.saga.journal import Journal, SagaStatus, decode_journal
from pillarbox.saga.store import SagaDetails

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

saga_option = click.option(
    "--saga", metavar="NAME", help="Of this definition, where sagas of several bear the id; with or without SERVICE/."
)


@click.group()
def saga() -> None:
    """Work with sagas, processes of many steps."""


@saga.command(name="list")
@click.option("--saga", "name", metavar="NAME", help="Only of this definition, with or without SERVICE/.")
@click.option("--status", type=click.Choice([one.value for one in SagaStatus]), help="Only those that stand there.")
@click.option("--step", metavar="STEP", help="Only those in which this step is under way; undo:STEP for its undoing.")
@click.option("--older-than", type=duration, help="Only those started longer ago, as in 2h.")
@click.option("--text", help="Only those with this in their state or history, in any case.")
@limit_option
@at_a_place
async def list_(
    place: Place,
    *,
    name: str | None,
    status: str | None,
    step: str | None,
    older_than: timedelta | None,
    text: str | None,
    limit: int,
) -> None:
    """List sagas, those changed last first, without their state."""
    async with place.open() as control:
        found = await control.sagas.list(name, status=status, step=step, older_than=older_than, text=text, limit=limit)
    if wants_json():
        print_json(found)
    elif not found:
        print_line("there are no such sagas")
    else:
        print_table(
            ["saga", "id", "version", "status", "under way", "started", "changed", "due"],
            (
                [
                    one.saga,
                    one.saga_id,
                    one.version,
                    one.status,
                    one.steps,
                    one.started_at,
                    one.changed_at,
                    one.due_at,
                ]
                for one in found
            ),
        )


@saga.command()
@click.argument("saga_id")
@saga_option
@click.option("--state", "with_state", is_flag=True, help="Show its state, which may hold personal data.")
@at_a_place
async def show(place: Place, saga_id: str, *, saga: str | None, with_state: bool) -> None:
    """Show one saga: its steps, what happened, and who did what about it."""
    async with place.open() as control:
        details = await control.sagas.get(saga_id, saga=saga)
        acts = await control.sagas.acts(saga_id, saga=details.summary.saga)
    journal = decode_journal(details.journal)
    facts, steps, history = _facts(details, journal), _steps(journal), _history(journal)
    if with_state:
        facts["state"] = details.state
    if wants_json():
        told = [{"at": one.at, "by": one.act.by, "what": one.act.what, "reason": one.act.reason} for one in acts]
        print_json({**facts, "steps": steps, "history": history, "acts": told})
        return
    print_facts(facts)
    if steps:
        print_table(list(steps[0]), ([*one.values()] for one in steps))
    for line in history:
        words = [f"{line['at']:%Y-%m-%d %H:%M:%S}", line["what"], line["act"], line["error"]]
        print_line(" ".join(str(word) for word in words if word))
    for done in acts:
        print_line(f"{done.act.what} by {done.act.by} at {done.at:%Y-%m-%d %H:%M:%S}: {done.act.reason}")


@saga.command()
@click.argument("saga_id")
@saga_option
@reason_option
@by_option
@at_a_place
async def retry(place: Place, saga_id: str, saga: str | None, reason: str, by: str) -> None:
    """Try again what was given up, or at once what waits for its next attempt."""
    async with place.open() as control:
        await control.sagas.retry(saga_id, saga=saga, reason=reason, by=by)
        await _tell(control, saga_id, saga, verb="retry", by=by, reason=reason)


@saga.command()
@click.argument("saga_id")
@click.argument("step")
@saga_option
@reason_option
@by_option
@at_a_place
async def skip(place: Place, saga_id: str, step: str, *, saga: str | None, reason: str, by: str) -> None:
    """Count a STEP that failed, or its undoing, as done: it was seen to in another way."""
    async with place.open() as control:
        await control.sagas.skip(saga_id, step=step, saga=saga, reason=reason, by=by)
        await _tell(control, saga_id, saga, verb="skip", by=by, reason=reason)


@saga.command()
@click.argument("saga_id")
@saga_option
@reason_option
@by_option
@at_a_place
async def compensate(place: Place, saga_id: str, saga: str | None, reason: str, by: str) -> None:
    """Undo whatever was done, even past the pivot, or after the saga has completed."""
    async with place.open() as control:
        await control.sagas.compensate(saga_id, saga=saga, reason=reason, by=by)
        await _tell(control, saga_id, saga, verb="compensate", by=by, reason=reason)


@saga.command()
@click.argument("saga_id")
@saga_option
@reason_option
@by_option
@at_a_place
async def cancel(place: Place, saga_id: str, saga: str | None, reason: str, by: str) -> None:
    """Begin no further step of a running saga, and undo what was done."""
    async with place.open() as control:
        await control.sagas.cancel(saga_id, saga=saga, reason=reason, by=by)
        await _tell(control, saga_id, saga, verb="cancel", by=by, reason=reason)


@saga.command()
@click.argument("app", metavar="MODULE:BOX")
@click.option("--store", metavar="URL", help="Where its sagas are under way; left out: the box's own store.")
@json_option
def check(app: str, store: str | None) -> None:
    """Compare a program's definitions with the sagas under way; exit with 1 when they cannot go on.

    Before a release: sagas that were begun by the last one go on with the steps that they know.
    """
    asyncio.run(_check(app, store))


async def _check(app: str, store: str | None) -> None:
    box = load_box(app)
    place = Place(store=box.store, box=box) if store is None else Place(store=store_at(store))
    async with place.open():
        breaks = await box.check_sagas(store=place.store)
    sagas = [f"{one.saga} version {one.version}" for one in box.saga_definitions()]
    if wants_json():
        print_json({"sagas": sagas, "breaks": [str(one) for one in breaks]})
    elif not breaks:
        print_line(f"whatever of {box.name} is under way can go on with {', '.join(sagas) or 'no saga'}")
    for one in () if wants_json() else breaks:
        print_line(f"break: {one}")
    if breaks:
        raise click.exceptions.Exit(1)


async def _tell(control: Control, saga_id: str, saga: str | None, *, verb: str, by: str, reason: str) -> None:
    """Print where a saga stands after a verb."""
    now = (await control.sagas.get(saga_id, saga=saga)).summary
    if wants_json():
        told = {"saga": now.saga, "saga_id": saga_id, "verb": verb, "status": now.status, "by": by, "reason": reason}
        print_json(told)
    else:
        print_line(f"{now.saga} {saga_id} is {now.status}; whoever drives it goes on from there")


def _facts(details: SagaDetails, journal: Journal) -> dict[str, object]:
    summary = details.summary
    return {
        "saga": summary.saga,
        "id": summary.saga_id,
        "version": summary.version,
        "status": summary.status.value,
        "started_at": summary.started_at,
        "changed_at": summary.changed_at,
        "due_at": summary.due_at,
        "changes": details.serial,
        "correlation_id": details.correlation_id,
        "stopped_because": journal.stopping or None,
        "past_pivot": journal.beyond,
        "replies_to_look_at": len(journal.arrived),
    }


def _steps(journal: Journal) -> list[dict[str, object]]:
    """Return the acts in the order in which they came to their end, then those under way."""
    acts = [("do", step, one) for step, one in journal.do.items()]
    acts += [("undo", step, one) for step, one in journal.undo.items()]
    return [
        {
            "step": step,
            "direction": direction,
            "state": one.state.value,
            "attempts": one.attempts,
            "due_at": None if one.due_us is None else _instant(one.due_us),
            "error": one.error,
        }
        for direction, step, one in sorted(acts, key=lambda act: (act[2].state.is_open, act[2].place))
    ]


def _history(journal: Journal) -> list[Mapping[str, object]]:
    return [
        {
            "at": _instant(one.at_us),
            "what": one.what,
            "act": f"{one.direction} {one.step} (attempt {one.attempt})" if one.step else "",
            "error": one.error,
        }
        for one in journal.history
    ]


def _instant(micros_since_1970: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros_since_1970)
