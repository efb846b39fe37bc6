"""Run benchmarks: ``python -m benchmarks [name …]``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.bench import Bench, Competitor
from benchmarks.catalogue import BENCHES
from benchmarks.databases import KINDS, Databases
from benchmarks.report import RESULTS, append, machine, rows, show
from benchmarks.runner import Score, play
from tests.servers import ServerError

SCALE = "PILLARBOX_BENCH_SCALE"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named benchmarks, or all; print a table each, add the rows to the results; 1 if anybody was missing."""
    chosen = _parser().parse_args(arguments)
    by_name = {bench.name: bench for bench in BENCHES}
    if unknown := set(chosen.names) - set(by_name):
        print(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(by_name)}", file=sys.stderr)
        return 2
    console = Console(width=140 if not sys.stdout.isatty() else None)
    databases: dict[str, Databases] = {}
    all_ran = True
    try:
        for bench in [by_name[name] for name in chosen.names] or BENCHES:
            if bench.store not in databases:
                databases[bench.store] = KINDS[bench.store]()
            all_ran &= _bench(bench, databases[bench.store], chosen, console)
    except ServerError as error:
        print(f"!!! no figures: {error}", file=sys.stderr)
        return 1
    finally:
        for kind in databases.values():
            kind.close()
    return 0 if all_ran else 1


def _bench(bench: Bench, databases: Databases, chosen: argparse.Namespace, console: Console) -> bool:
    count = max(1, round(bench.count * chosen.scale))
    wanted = [one for one in bench.competitors if not chosen.only or _is_among(one, chosen.only)]
    scores: list[Score] = play(
        bench, wanted, databases=databases, count=count, rounds=chosen.rounds, say=lambda line: print(line, flush=True)
    )
    show(bench, scores, count=count, console=console)
    if chosen.results is not None:
        append(chosen.results, rows(bench, scores, count=count, machine=machine(databases.version)))
    return all(score.missing is None for score in scores)


def _is_among(competitor: Competitor, names: Sequence[str]) -> bool:
    """Tell whether one of ``names`` is the competitor's, or the first word of it."""
    return bool({competitor.who, competitor.who.split()[0]} & set(names))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(bench.name for bench in BENCHES)}")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each competitor (default: 3)")
    parser.add_argument("--only", nargs="+", metavar="who", help="only these, by their name or its first word")
    parser.add_argument(
        "--scale",
        type=float,
        default=float(os.environ.get(SCALE) or 1),
        help=f"do this part of the work, to see that it runs (default: {SCALE}, or 1)",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the rows go")
    parser.add_argument("--no-results", dest="results", action="store_const", const=None, help="keep no rows")
    return parser


if __name__ == "__main__":
    sys.exit(main())
