"""The fulfilment sagas of the examples: four services, four databases, a real broker, and a kill -9 in the middle."""

from __future__ import annotations

import importlib
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
from sqlalchemy import insert, select

from pillarbox.testing import Harness
from tests.architecture.tree import ROOT
from tests.servers import RedisServer
from tests.servers.processes import Process
from tests.waiting import wait_blocking

EXAMPLES = ROOT / "examples" / "fulfilment"
ORDERS, ENDED_BEFORE_THE_KILL = 15, 2
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

    assert before >= ENDED_BEFORE_THE_KILL
    assert second.returncode == 0, second.stdout
    assert all(line.startswith("event=") for line in second.stderr.splitlines()), "the log of what has failed, no more"
    books: list[dict[str, Any]] = json.loads(second.stdout)
    assert [book["problems"] for book in books] == [[]] * ORDERS
    statuses = Counter(book["status"] for book in books)
    assert ORDERS // 5 <= statuses["shipped"] <= ORDERS // 5 * 2  # who changes their mind may be too late
    assert statuses.total() == ORDERS
    happened = Counter(what for book in books for what, _ in book["lines"])
    assert happened["refund"] >= ORDERS // 5 * 2
    assert happened["release"] >= ORDERS // 5


@pytest.fixture
def choreographed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, as if it were run."""
    monkeypatch.setattr(sys, "argv", ["choreographed.py", "--folder", str(tmp_path)])
    monkeypatch.setenv("PILLARBOX_BROKER", "memory://")
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module("choreographed")
    for name in ("choreographed", "stage"):
        sys.modules.pop(name, None)


async def test_a_payment_that_comes_after_its_cancellation_is_not_taken(choreographed: Any) -> None:
    stage = importlib.import_module("stage")
    async with Harness(choreographed.payment_service, tables=stage.metadata) as harness:
        await harness.publish(choreographed.OrderCancelled("o-1", "changed their mind"))
        await harness.until_quiet()
        await harness.publish(choreographed.OrderPlaced("o-1", 2_500, 1, "12 Mill Lane"))
        await harness.publish(choreographed.OrderPlaced("o-2", 2_500, 1, "12 Mill Lane"))
        await harness.publish(choreographed.OrderCancelled("o-2", "changed their mind"))
        await harness.until_quiet()

        async with harness.transaction() as tx:
            written = (await tx.execute(select(stage.entries.c.order_id, stage.entries.c.amount))).all()
        assert written == [("o-2", 2_500), ("o-2", -2_500)]
        assert [charged.order_id for charged in harness.published(choreographed.CardCharged)] == ["o-2"]


def test_the_choreography_s_flow_has_nothing_to_complain_of(choreographed: Any) -> None:
    assert choreographed.order_service.flows.check() == ()


async def test_goods_are_not_reserved_for_an_order_that_was_cancelled_before(choreographed: Any) -> None:
    stage = importlib.import_module("stage")
    async with Harness(choreographed.stock_service, tables=stage.metadata) as harness:
        async with harness.transaction() as tx:
            await tx.execute(insert(stage.shelf), {"sku": "kettle", "pieces": 5})
        await harness.publish(choreographed.OrderCancelled("o-1", "changed their mind"))
        await harness.until_quiet()
        await harness.publish(choreographed.CardCharged("o-1", 3, "12 Mill Lane"))
        await harness.until_quiet()

        async with harness.transaction() as tx:
            assert await tx.scalar(select(stage.shelf.c.pieces)) == 5
        assert harness.published(choreographed.StockReserved) == []


@pytest.mark.parametrize("way", ["orchestrated", "choreographed"])
def test_without_a_broker_it_says_what_is_missing(way: str, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PILLARBOX_BROKER"}

    done = subprocess.run(
        command_of(way, tmp_path), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 1
    assert "set PILLARBOX_BROKER to redis://" in done.stderr
