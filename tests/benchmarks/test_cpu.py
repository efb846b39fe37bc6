"""What a relayed event may cost, as a ratio to the least that PostgreSQL's driver can do in the same run.

Processor time, not time: whoever else is on the machine makes both dearer by about as much.
"""

from __future__ import annotations

import pytest

from benchmarks.bench import OURS
from benchmarks.catalogue import BENCHES, OURS_SEQUENCE, RAW
from benchmarks.databases import PostgresDatabases
from benchmarks.runner import Score, play
from tests import effort
from tests.servers import PostgresServer

COUNT, ROUNDS = effort.of(20_000, 5_000), 2
GATES = {OURS: 10, OURS_SEQUENCE: 10}
"""About twice what has been measured; the goals themselves are for a quiet machine, ``make bench``."""


@pytest.fixture(scope="module")
def scores(postgresql_server: PostgresServer) -> dict[str, Score]:
    (bench,) = [bench for bench in BENCHES if bench.name == "relay.noop.postgresql"]
    wanted = [one for one in bench.competitors if one.who in {*GATES, RAW}]
    databases = PostgresDatabases(postgresql_server)
    played = play(bench, wanted, databases=databases, count=COUNT, rounds=ROUNDS, say=lambda _line: None)
    return {score.competitor.who: score for score in played}


@pytest.mark.parametrize("who", GATES)
def test_a_relayed_event_costs_its_process_few_times_what_reading_and_deleting_its_row_costs(
    scores: dict[str, Score], who: str
) -> None:
    assert scores[who].missing is None, scores[who].missing
    assert scores[RAW].missing is None, scores[RAW].missing

    least, raw = min(scores[who].figures["cpu_us"]), min(scores[RAW].figures["cpu_us"])

    assert least <= GATES[who] * raw, f"{least:.1f} µs an event, the driver alone {raw:.1f}"
