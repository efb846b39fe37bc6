"""Runs the competitors of a benchmark in turn, round after round, each run in a fresh process on a fresh database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.bench import Bench, Competitor
from benchmarks.databases import Databases
from benchmarks.peers import PeerMissingError, python_of

ROOT = Path(__file__).resolve().parent.parent
_RUN_WITHIN_S = 900


@dataclass
class Score:
    """What one competitor achieved.

    Attributes:
        figures: by their names, one of each run.
        missing: why it did not run, or not to the end; its figures do not count then.
    """

    competitor: Competitor
    figures: dict[str, list[float]] = field(default_factory=dict)
    missing: str | None = None

    def add(self, figures: Mapping[str, float]) -> None:
        """Add the figures of one run."""
        for name, value in figures.items():
            self.figures.setdefault(name, []).append(value)

    def median(self, figure: str) -> float | None:
        """Return the median of ``figure``; ``None`` where the competitor did not run."""
        return None if self.missing is not None or figure not in self.figures else median(self.figures[figure])


def play(
    bench: Bench,
    competitors: Sequence[Competitor],
    *,
    databases: Databases,
    count: int,
    rounds: int,
    say: Callable[[str], None],
) -> list[Score]:
    """Let ``competitors`` do ``count`` pieces of work, or their part, ``rounds`` times, in turn in every round."""
    scores = [Score(competitor) for competitor in competitors]
    pythons: dict[str, str] = {}
    for score in scores:
        try:
            peer = score.competitor.peer
            pythons[score.competitor.who] = sys.executable if peer is None else python_of(peer)
        except PeerMissingError as error:
            score.missing = str(error)
            say(f"!!! {bench.name}: {score.competitor.who} is MISSING: {error}")
    for number in range(1, rounds + 1):
        for score in scores:
            if score.missing is not None:
                continue
            who = score.competitor.who
            with databases.fresh() as url:
                _run(score, pythons[who], url=url, count=count, server_pid=databases.server_pid)
            if score.missing is not None:
                say(f"!!! {bench.name}: {who} FAILED: {score.missing}")
            else:
                measured = [one for one in bench.figures if one.name in score.figures]
                told = [f"{score.figures[one.name][-1]:,.{one.digits}f} {one.unit}" for one in measured]
                say(f"{bench.name}: round {number} of {rounds}: {who}: {', '.join(told)}")
    return scores


def _run(score: Score, python: str, *, url: str, count: int, server_pid: int | None) -> None:
    competitor = score.competitor
    share = competitor.share_of(count)
    task = {"url": url, "count": share, "server_pid": server_pid, "options": dict(competitor.options)}
    module = f"benchmarks.competitors.{competitor.module}"
    path = [str(ROOT)] if competitor.peer is not None else [str(ROOT), str(ROOT / "src")]
    try:
        done = subprocess.run(
            [python, "-m", module, json.dumps(task)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=_RUN_WITHIN_S,
        )
    except subprocess.TimeoutExpired:
        score.missing = f"it did not end within {_RUN_WITHIN_S} s"
        return
    if done.returncode != 0:
        score.missing = f"exit code {done.returncode}: {' '.join(done.stderr.split())[-800:]}"
        return
    score.add(json.loads(done.stdout.splitlines()[-1]))
