"""The table of a benchmark, and its rows in ``results.json``."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.bench import OURS, Bench, Goal
from benchmarks.runner import Score

RESULTS = Path(__file__).parent / "results.json"


def show(bench: Bench, scores: Sequence[Score], *, count: int, console: Console) -> None:
    """Print what was achieved, with ratios to ours, and whether the goals are met."""
    table = Table(title=f"{bench.name}: {bench.title} ({count:,} a run)", title_justify="left")
    for heading in ("who", bench.unit, "(least – most)", "pillarbox is", "CPU µs each", "server µs each", "peak MiB"):
        table.add_column(heading, justify="left" if heading == "who" else "right")
    ours = _rate(scores, OURS)
    for score in scores:
        who = score.competitor.who
        if score.missing is not None:
            table.add_row(who, "MISSING")
            continue
        rate = median(score.rates)
        table.add_row(
            who,
            f"{rate:,.0f}",
            f"({min(score.rates):,.0f} – {max(score.rates):,.0f})",
            "" if ours is None or who == OURS else f"{ours / rate:.2f} times as fast",
            f"{median(score.cpu_us):,.1f}",
            f"{median(score.server_cpu_us):,.1f}",
            f"{max(score.peak_mib):,.0f}",
        )
    console.print(table)
    for score in scores:
        if score.missing is not None:
            console.print(f"MISSING: {score.competitor.who}: {score.missing}", markup=False)
    for goal in bench.goals:
        console.print(_verdict(goal, scores, ours))


def rows(bench: Bench, scores: Iterable[Score], *, count: int, machine: str) -> list[dict[str, Any]]:
    """Return the rows for ``results.json``; a competitor that did not run has its reason instead of figures."""
    found: list[dict[str, Any]] = []
    for score in scores:
        row: dict[str, Any] = {"bench": bench.name, "who": score.competitor.who, "unit": bench.unit}
        if score.missing is not None:
            row |= {"runs": [], "missing": score.missing[:200]}
        else:
            row |= {
                "runs": [round(rate) for rate in score.rates],
                "count": count,
                "cpu_us": [round(value, 1) for value in score.cpu_us],
                "server_cpu_us": [round(value, 1) for value in score.server_cpu_us],
                "peak_mib": round(max(score.peak_mib)),
            }
        found.append({**row, "machine": machine, "date": datetime.now(tz=UTC).date().isoformat()})
    return found


def append(file: Path, new: Sequence[dict[str, Any]]) -> None:
    """Add ``new`` to the rows in ``file``, one a line."""
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in [*old, *new])
    file.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def machine(database: str) -> str:
    """Describe this machine as far as it matters."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = f"Python {platform.python_version()}"
    return f"{os.cpu_count()} × {_processor()}, {memory:.0f} GiB, {platform.system()}, {python}, {database}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _rate(scores: Iterable[Score], who: str) -> float | None:
    rates = next((score.rates for score in scores if score.competitor.who == who and score.missing is None), [])
    return median(rates) if rates else None


def _verdict(goal: Goal, scores: Sequence[Score], ours: float | None) -> str:
    if ours is None:
        return "goal: not measured, ours did not run"
    if goal.peak_mib is not None:
        peak = max(peak for score in scores if score.competitor.who == OURS for peak in score.peak_mib)
        return f"goal: at most {goal.peak_mib} MiB: {'met' if peak <= goal.peak_mib else 'MISSED'}, {peak:.0f} MiB"
    found = {who: rate for who in goal.against if (rate := _rate(scores, who)) is not None}
    if not found:
        return f"goal: not measured, none of {', '.join(goal.against)} ran"
    fastest = max(found, key=lambda who: found[who])
    ratio = ours / found[fastest]
    verdict = "met" if ratio >= goal.ratio else "MISSED"
    return f"goal: {goal.ratio:g} times {fastest}: {verdict}, {ratio:.2f} times"
