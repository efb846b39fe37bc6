"""Each program of our benchmarks runs, with very little work; a figure that nobody can measure any more is found here.

With everything wanted it runs with all the options that any benchmark gives it, and so do the naive and raw programs.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.bench import LATENCY, OURS, Bench, Competitor
from benchmarks.catalogue import BENCHES
from benchmarks.databases import PostgresDatabases, SqliteDatabases
from benchmarks.peers import CACHE, PeerMissingError, python_of
from benchmarks.report import append, rows
from benchmarks.runner import Score, play
from tests import effort
from tests.servers import PostgresServer

SIZE = 120
WITHOUT_SERVER = [bench for bench in BENCHES if bench.store == "sqlite"]
WITH_SERVER = [bench for bench in BENCHES if bench.store == "postgresql"]
OWN = [
    (bench, competitor)
    for bench in [*WITH_SERVER, *WITHOUT_SERVER]
    for competitor in bench.competitors
    if competitor.peer is None
]
ONE_OF_EACH_PROGRAM = {
    competitor.module: (bench, competitor) for bench, competitor in reversed(OWN) if competitor.who.startswith(OURS)
}
"""Many benchmarks are the same program with other options."""
PLAYED = effort.of(OWN, list(ONE_OF_EACH_PROGRAM.values()))


def _assert_all_measured(bench: Bench, scores: list[Score]) -> None:
    for score in scores:
        assert score.missing is None, f"{score.competitor.who}: {score.missing}"
        is_ours = score.competitor.who == OURS
        for name in (*[figure.name for figure in bench.figures[: None if is_ours else 1]], "peak_mib"):
            assert len(score.figures[name]) == 1
            assert score.figures[name][0] > 0


@pytest.mark.parametrize(
    ("bench", "competitor"), PLAYED, ids=[f"{bench.name}-{competitor.who}" for bench, competitor in PLAYED]
)
def test_a_benchmark_measures_everybody_but_the_peers(
    bench: Bench, competitor: Competitor, postgresql_server: PostgresServer
) -> None:
    databases = SqliteDatabases() if bench in WITHOUT_SERVER else PostgresDatabases(postgresql_server)
    scores = play(bench, [competitor], databases=databases, count=SIZE, rounds=1, say=lambda _line: None)

    _assert_all_measured(bench, scores)


def test_a_peer_that_cannot_be_installed_is_reported_as_missing_with_its_reason() -> None:
    heard: list[str] = []
    bench = WITHOUT_SERVER[0]
    absent = Competitor(who="absent 1.0", module="pillarbox_relay", peer="there-is-no-such-peer")

    (score,) = play(bench, [absent], databases=SqliteDatabases(), count=SIZE, rounds=1, say=heard.append)

    assert score.missing
    assert "MISSING" in heard[0]
    assert rows(bench, [score], count=SIZE, machine="here")[0]["missing"] == score.missing


def test_a_peer_that_needs_a_newer_python_than_there_is_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "peers").mkdir()
    (tmp_path / "peers" / "modern.txt").write_text("# python >= 3.99\n")
    monkeypatch.setattr("benchmarks.peers.HERE", tmp_path)

    with pytest.raises(PeerMissingError, match=r"needs Python 3\.99"):
        python_of("modern")


def test_a_latency_has_a_row_for_each_of_its_figures() -> None:
    bench = next(bench for bench in BENCHES if bench.figures == LATENCY)
    score = Score(bench.competitors[0])
    score.add({"p50_ms": 1.234, "p99_ms": 5.678, "cpu_us": 1, "server_cpu_us": 1, "peak_mib": 1})

    found = rows(bench, [score], count=SIZE, machine="here")

    assert [(row["unit"], row["runs"]) for row in found] == [("ms p50", [1.23]), ("ms p99", [5.68])]


def test_who_would_take_too_long_does_a_part_of_the_work_and_its_row_says_how_much() -> None:
    slow = Competitor(who="slow 1.0", module="pillarbox_relay", part=1 / 20)
    score = Score(slow)
    score.add({"rate": 50, "cpu_us": 1, "server_cpu_us": 1, "peak_mib": 1})

    (row,) = rows(WITHOUT_SERVER[0], [score], count=20_000, machine="here")

    assert row["count"] == 1_000
    assert slow.share_of(SIZE) == SIZE // 20
    assert slow.share_of(1) == 1


def test_rows_are_added_to_those_of_earlier_runs(tmp_path: Path) -> None:
    file = tmp_path / "results.json"

    append(file, [{"bench": "a", "who": OURS, "unit": "events/s", "runs": [1, 2, 3]}])
    append(file, [{"bench": "b", "who": OURS, "unit": "events/s", "runs": [4, 5, 6]}])

    assert [row["bench"] for row in json.loads(file.read_text())] == ["a", "b"]


def test_the_environments_of_peers_are_not_part_of_the_repository() -> None:
    ignored = (CACHE.parent / ".gitignore").read_text().split()

    assert f"{CACHE.name}/" in ignored
