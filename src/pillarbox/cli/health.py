"""``pillarbox health``: how the messages of a database fare."""

from __future__ import annotations

from datetime import timedelta

import click

from pillarbox.cli.durations import duration
from pillarbox.cli.output import print_facts, print_json, print_line, wants_json
from pillarbox.cli.places import Place, at_a_place
from pillarbox.control import Health, HealthLimits, HealthStatus


@click.command()
@click.option("--strict", is_flag=True, help="Exit with 1 for degraded, too.")
@click.option(
    "--oldest-pending",
    type=duration,
    default="30s",
    show_default=True,
    help="How long a record may wait in the outbox.",
)
@at_a_place
async def health(place: Place, strict: bool, oldest_pending: timedelta) -> None:  # noqa: FBT001  # click's signature
    """Say whether messages flow; exit with 1 when they do not.

    Computed from the tables alone: it is right also when no relay runs anywhere.
    """
    async with place.open() as control:
        limits = HealthLimits(oldest_pending=oldest_pending, fullest_key=place.max_held)
        found = await control.health.check(limits)
    _show(found)
    bad = {HealthStatus.UNHEALTHY, HealthStatus.DEGRADED} if strict else {HealthStatus.UNHEALTHY}
    if found.status in bad:
        raise click.exceptions.Exit(1)


def _show(found: Health) -> None:
    vitals = found.vitals
    if wants_json():
        parts = {"outbox": vitals.outbox, "holding": vitals.holding, "gaps": vitals.gaps, "waits": vitals.waits}
        rest = {"oldest_queued_for": vitals.oldest_queued_for, "dead": vitals.dead, "log": vitals.log}
        facts = {"status": found.status.value, "problems": found.problems, "stopped": vitals.stopped}
        sagas = {"sagas_in_need": vitals.sagas_in_need, "overdue_sagas": vitals.overdue_sagas}
        aging = {"aging_letters": vitals.aging_letters}
        print_json({**facts, **parts, **rest, **sagas, **aging, "down": vitals.down, "flows": vitals.flows})
        return
    print_line(found.status.value)
    for problem in found.problems:
        print_line(f"  {problem.status.value}: {problem.what}")
    print_facts(
        {
            "pending": vitals.outbox.pending,
            "oldest pending": vitals.outbox.oldest_for,
            "scheduled": vitals.outbox.scheduled,
            "parked": vitals.outbox.parked,
            "oldest queued": vitals.oldest_queued_for,
            "held keys": vitals.holding.keys,
            "blocked keys": vitals.holding.blocked,
            "held messages": vitals.holding.messages,
            "of the fullest key": vitals.holding.fullest,
            "oldest hold": vitals.holding.oldest_for,
            "waiting for numbers": vitals.gaps.buffered,
            "oldest gap": vitals.gaps.oldest_for,
            "waiting for causes": vitals.waits.messages,
            "oldest waiting for causes": vitals.waits.oldest_for,
            "dead letters": vitals.dead,
            "oldest letter near its end": max((one.letters.oldest_for for one in vitals.aging_letters), default=None),
            "sagas in need": vitals.sagas_in_need.count,
            "oldest saga in need": vitals.sagas_in_need.oldest_for,
            "oldest due saga": max((one.oldest_for for one in vitals.overdue_sagas), default=None),
            "down": ", ".join(one.dependency for one in vitals.down) or None,
            **({"stuck flows": vitals.flows.stuck} if vitals.flows.stuck else {}),
            **({"stopped consumers": ", ".join(vitals.stopped)} if vitals.stopped else {}),
            **({} if vitals.log is None else {"log kept, bytes": vitals.log.retained_bytes}),
        }
    )
