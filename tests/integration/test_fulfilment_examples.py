"""The fulfilment sagas of the examples: four services, four databases, a real broker, and a kill -9 in the middle."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.tree import ROOT
from tests.servers import RedisServer
from tests.servers.processes import Process
from tests.waiting import wait_blocking

EXAMPLES = ROOT / "examples" / "fulfilment"
ORDERS, ENDED_BEFORE_THE_KILL = 30, 4
WITHIN = timedelta(seconds=60)


def command_of(way: str, folder: Path) -> list[str]:
    script = EXAMPLES / f"{way}.py"
    return [sys.executable, "-W", "error", str(script), "--folder", str(folder), "--orders", str(ORDERS), "--json"]


def ended(folder: Path) -> int:
    """Return how many orders have come to their end, by the order service's database."""
    database = folder / "orders.db"
    if not database.exists():
        return 0
    with closing(sqlite3.connect(database)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'orders'").fetchall():
            return 0
        statuses = "SELECT count(*) FROM orders WHERE status IN ('shipped', 'cancelled')"
        return int(connection.execute(statuses).fetchone()[0])


@pytest.mark.fault
@pytest.mark.parametrize("way", ["orchestrated", "choreographed"])
def test_each_order_is_shipped_or_undone_once_though_all_services_are_killed(
    way: str, tmp_path: Path, private_redis_server: RedisServer
) -> None:
    folder = tmp_path / "run"
    env = {**os.environ, "PILLARBOX_BROKER": private_redis_server.url}
    first = Process.spawn(command_of(way, folder), log=tmp_path / "first.log", cwd=tmp_path, env=env)
    try:
        wait_blocking(lambda: first.exit_code is not None or ended(folder) >= ENDED_BEFORE_THE_KILL, WITHIN)
    finally:
        first.kill()
        print(first.output)
    before = ended(folder)

    second = subprocess.run(
        command_of(way, folder), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
    )

    assert ENDED_BEFORE_THE_KILL <= before < ORDERS
    assert (second.returncode, second.stderr) == (0, ""), second.stdout
    books: list[dict[str, Any]] = json.loads(second.stdout)
    assert [book["problems"] for book in books] == [[]] * ORDERS
    statuses = Counter(book["status"] for book in books)
    assert ORDERS // 5 <= statuses["shipped"] <= ORDERS // 5 * 2  # who changes their mind may be too late
    assert statuses.total() == ORDERS
    happened = Counter(what for book in books for what, _ in book["lines"])
    assert happened["refund"] >= ORDERS // 5 * 2
    assert happened["release"] >= ORDERS // 5


@pytest.mark.parametrize("way", ["orchestrated", "choreographed"])
def test_without_a_broker_it_says_what_is_missing(way: str, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PILLARBOX_BROKER"}

    done = subprocess.run(
        command_of(way, tmp_path), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 1
    assert "set PILLARBOX_BROKER to redis://" in done.stderr
