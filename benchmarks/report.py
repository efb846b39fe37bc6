"""The table of a benchmark, and its rows in ``results.json``."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.bench import OURS, Bench, Figure, Goal
from benchmarks.runner import Score

RESULTS = Path(__file__).parent / "results.json"
_COSTS = {"cpu_us": "CPU µs each", "server_cpu_us": "server µs each", "peak_mib": "peak MiB"}


def show(bench: Bench, scores: Sequence[Score], *, count: int, console: Console) -> None:
    """Print what was achieved, with ratios to ours, and whether the goals are met."""
    table = Table(title=f"{bench.name}: {bench.title} ({count:,} a run)", title_justify="left")
    table.add_column("who")
    for figure in bench.figures:
        for heading in (figure.unit, "(least – most)", "pillarbox is"):
            table.add_column(heading, justify="right")
    for heading in _COSTS.values():
        table.add_column(heading, justify="right")
    ours = next((score for score in scores if score.competitor.who.split()[0] == OURS), None)  # the first of them
    for score in scores:
        if score.missing is not None:
            table.add_row(score.competitor.who, "MISSING")
            continue
        cells = [cell for figure in bench.figures for cell in _cells(score, figure, ours)]
        table.add_row(score.competitor.who, *cells, *_costs(score))
    console.print(table)
    for score in scores:
        if score.missing is not None:
            console.print(f"MISSING: {score.competitor.who}: {score.missing}", markup=False)
    for goal in bench.goals:
        console.print(f"goal: {_verdict(goal, scores)}", markup=False)


def rows(bench: Bench, scores: Iterable[Score], *, count: int, machine: str) -> list[dict[str, Any]]:
    """Return the rows for ``results.json``; a competitor that did not run has its reason instead of figures."""
    found: list[dict[str, Any]] = []
    date = datetime.now(tz=UTC).date().isoformat()
    for score in scores:
        for figure in bench.figures:
            if score.missing is None and figure.name not in score.figures:
                continue
            row: dict[str, Any] = {"bench": bench.name, "who": score.competitor.who, "unit": figure.unit}
            if score.missing is not None:
                row |= {"runs": [], "missing": score.missing[:200]}
            else:
                row |= {
                    "runs": [round(value, figure.digits or None) for value in score.figures[figure.name]],
                    "count": score.competitor.share_of(count),
                    "cpu_us": [round(value, 1) for value in score.figures["cpu_us"]],
                    "server_cpu_us": [round(value, 1) for value in score.figures["server_cpu_us"]],
                    "peak_mib": round(max(score.figures["peak_mib"])),
                }
            found.append({**row, "machine": machine, "date": date})
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


def _cells(score: Score, figure: Figure, ours: Score | None) -> tuple[str, str, str]:
    values = score.figures.get(figure.name)
    if not values:
        return "", "", ""
    middle, of_ours = score.median(figure.name), None if ours is None else ours.median(figure.name)
    assert middle is not None
    ratio = ""
    if of_ours is not None and score is not ours:
        times = "times as long" if figure.less_is_better else "times as fast"
        ratio = f"{of_ours / middle:.2f} {times}"
    spread = f"({min(values):,.{figure.digits}f} – {max(values):,.{figure.digits}f})"
    return f"{middle:,.{figure.digits}f}", spread, ratio


def _costs(score: Score) -> tuple[str, ...]:
    cpu, server = score.median("cpu_us"), score.median("server_cpu_us")
    return (f"{cpu:,.1f}", f"{server:,.1f}", f"{max(score.figures['peak_mib']):,.0f}")


def _verdict(goal: Goal, scores: Sequence[Score]) -> str:
    medians = {score.competitor.who: score.median(goal.figure) for score in scores}
    ours = medians.get(goal.who)
    bound, word = (goal.at_most, "at most") if goal.at_least is None else (goal.at_least, "at least")
    assert bound is not None, "a goal has a bound"
    wanted = f"{goal.who}: {goal.figure} {word} {bound:.3g}"
    if ours is None:
        return f"{wanted}: not measured, it did not run"
    reached, unit = ours, ""
    if goal.against:
        rivals = {who: value for who in goal.against if (value := medians.get(who)) is not None}
        if not rivals:
            return f"{wanted} times that of {', '.join(goal.against)}: not measured, none of them ran"
        best = (max if goal.at_least is not None else min)(rivals, key=lambda who: rivals[who])
        reached, unit = ours / rivals[best], f" times that of {best}"
    met = reached >= bound if goal.at_least is not None else reached <= bound
    return f"{wanted}{unit}: {'met' if met else 'MISSED'}, {reached:.3g}{' times' if goal.against else ''}"
