"""``pillarbox doctor``: what about database and broker endangers messages, what it means, and what to do."""

from __future__ import annotations

from datetime import timedelta
from itertools import groupby

import click

from pillarbox.app.diagnosing import doctor_of
from pillarbox.cli.durations import duration
from pillarbox.cli.output import print_json, print_line, wants_json
from pillarbox.cli.places import Place, at_a_place
from pillarbox.control.diagnosis import Diagnosis, DiagnosisLimits, Finding, Severity


@click.command()
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too.")
@click.option("--deep", is_flag=True, help="Check what takes as long as the data are large, too.")
@click.option("--all", "everything", is_flag=True, help="Show what is well, too.")
@click.option(
    "--oldest-transaction",
    type=duration,
    default="60s",
    show_default=True,
    help="How long a transaction may be open, anybody's.",
)
@at_a_place
async def doctor(place: Place, strict: bool, deep: bool, everything: bool, oldest_transaction: timedelta) -> None:  # noqa: FBT001  # click's signature
    """Look for what endangers messages; exit with 1 on an error.

    Changes nothing. Some facts need the right to see other users' sessions (pg_monitor).
    """
    async with place.lend():
        limits = DiagnosisLimits(oldest_transaction=oldest_transaction)
        found = await doctor_of(place.store, limits, place.broker, channels=place.channels).examine(deep=deep)
    _show(place, found, everything=everything)
    bad = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    if found.worst in bad:
        raise click.exceptions.Exit(1)


def _show(place: Place, found: Diagnosis, *, everything: bool) -> None:
    if wants_json():
        print_json({"store": place.url, "worst": found.worst.value, "findings": found.findings})
        return
    print_line(f"{place.url}: {found.worst.value}")
    shown = [one for one in found.findings if everything or one.severity is not Severity.OK]
    for severity, findings in groupby(shown, key=lambda finding: finding.severity):
        print_line(f"\n{severity.value}")
        for finding in findings:
            _show_one(finding)
    if hidden := len(found.findings) - len(shown):
        print_line(f"\n{hidden} other checks found nothing; --all shows them")


def _show_one(finding: Finding) -> None:
    print_line(f"  {finding.subject}: {finding.what}  [{finding.code}]")
    if finding.means:
        print_line(f"    it means: {finding.means}")
    if finding.do:
        print_line(f"    to do:    {finding.do}")
