"""``pillarbox run`` as a process: signals drain it, and nothing is left half done."""

import asyncio
import json
import signal
import sqlite3
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from pillarbox import Pillarbox
from pillarbox.relational.migrations import CURRENT_VERSION
from tests.integration.cli_programs.orders import NOTED, OrderPlaced
from tests.integration.cli_programs.sagas import Fulfilment, fulfil
from tests.processes import PythonProcess, PythonProcesses
from tests.waiting import wait_until

ORDERS = 300
SOON = timedelta(seconds=30)
SHOP = "tests.integration.cli_programs.shop:box"
FULFILMENT = "tests.integration.cli_programs.fulfilment:box"
STUCK = "tests.integration.cli_programs.stuck:box"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
async def orders(file: Path) -> list[str]:
    """The ids of orders that are placed and not yet handled."""
    ids = [f"o-{number}" for number in range(ORDERS)]
    async with Pillarbox("shop", store=f"sqlite:///{file}") as box, box.transaction() as tx:
        await tx.execute(text(NOTED))
        await box.publish_all([OrderPlaced(order_id) for order_id in ids], tx=tx)
    return ids


@pytest.fixture
async def one_stuck_order(file: Path) -> None:
    async with Pillarbox("shop", store=f"sqlite:///{file}") as box, box.transaction() as tx:
        await box.publish(OrderPlaced("o-1"), tx=tx)


def start(processes: PythonProcesses, file: Path, *arguments: str) -> PythonProcess:
    return processes.start("pillarbox", "run", *arguments, env={"PILLARBOX_STORE": f"sqlite:///{file}"})


def rows(file: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(file, timeout=30)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def count(file: Path, table: str) -> int:
    (found,) = rows(file, f"SELECT count(*) FROM {table}")[0]
    assert isinstance(found, int)
    return found


def events(process: PythonProcess) -> Counter[str]:
    return Counter(line.partition("event=")[2].partition(" ")[0] for line in process.output.splitlines())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_leaves_nothing_half_done(
    number: signal.Signals, file: Path, orders: list[str], python_processes: PythonProcesses
) -> None:
    process = start(python_processes, file, SHOP)
    await wait_until(lambda: count(file, "noted") >= 50, SOON, what="fifty orders noted")

    process.send(number)
    code = await process.exited(SOON)

    assert code == 0
    assert "event=box_draining" in process.output
    assert "drained=true" in process.output
    noted = rows(file, "SELECT 'shop/' || consumer, order_id FROM noted")
    assert len(noted) == len(set(noted)) == count(file, "pillarbox_inbox")
    assert (count(file, "pillarbox_attempts"), count(file, "pillarbox_claims")) == (0, 0)
    assert rows(file, f"SELECT owner FROM pillarbox_members WHERE expires_at > {time.time_ns() // 1000}") == []
    assert rows(file, "SELECT slot FROM pillarbox_leases WHERE owner IS NOT NULL") == []
    assert count(file, "pillarbox_dead_letters") == 0


async def test_a_second_start_finishes_what_the_first_left(
    file: Path, orders: list[str], python_processes: PythonProcesses
) -> None:
    first = start(python_processes, file, SHOP, "--log-level", "error")
    await wait_until(lambda: count(file, "noted") >= 20, SOON, what="twenty orders noted")
    first.send(signal.SIGTERM)
    assert await first.exited(SOON) == 0

    second = start(python_processes, file, SHOP)
    await wait_until(lambda: count(file, "noted") >= 2 * ORDERS, SOON * 2, what="every order noted twice")
    second.send(signal.SIGTERM)

    assert await second.exited(SOON) == 0
    noted = Counter(rows(file, "SELECT consumer, order_id FROM noted"))
    assert set(noted) == {(consumer, order_id) for consumer in ("note", "follow") for order_id in orders}
    assert set(noted.values()) == {1}
    told = events(second)
    assert told["message_handled"] > 0
    assert told["consumer_declared"] == 2


async def test_roles_are_split_over_processes(file: Path, orders: list[str], python_processes: PythonProcesses) -> None:
    consumers = start(python_processes, file, SHOP, "--consumers")
    await wait_until(lambda: count(file, "pillarbox_consumers") == 2, SOON)
    assert count(file, "pillarbox_outbox") == ORDERS

    relay = start(python_processes, file, SHOP, "--relay", "--json")
    await wait_until(lambda: count(file, "noted") >= 2 * ORDERS, SOON * 2, what="every order noted twice")
    for process in (relay, consumers):
        process.send(signal.SIGTERM)
        assert await process.exited(SOON) == 0

    lines = [json.loads(line) for line in relay.output.splitlines()]
    assert {"box_starting", "messages_published", "box_draining", "box_stopped"} <= {line["event"] for line in lines}
    assert lines[0]["roles"] == "relay"
    assert events(consumers)["messages_published"] == 0


async def test_sagas_are_a_role_of_their_own(file: Path, python_processes: PythonProcesses) -> None:
    starter = Pillarbox("shop", store=f"sqlite:///{file}")
    starter.include(fulfil)
    async with starter as box, box.transaction() as tx:
        await box.sagas.start(fulfil, Fulfilment("o-1"), saga_id="o-1", tx=tx)

    process = start(python_processes, file, FULFILMENT, "--sagas", "--json")
    ended = "SELECT 1 FROM pillarbox_saga_instances WHERE state = 'completed'"
    await wait_until(lambda: rows(file, ended), SOON, what="the saga's end")
    process.send(signal.SIGTERM)

    assert await process.exited(SOON) == 0
    lines = [json.loads(line) for line in process.output.splitlines()]
    (declared,) = [line for line in lines if line["event"] == "saga_declared"]
    assert (declared["saga"], declared["version"], declared["steps"]) == ("shop/fulfil", 1, "note")
    assert lines[0]["roles"] == "sagas"
    assert not [line for line in lines if line["event"] in ("consumer_declared", "messages_published")]
    assert count(file, "pillarbox_outbox") == 1


async def test_a_drain_that_takes_too_long_ends_with_1(
    file: Path, one_stuck_order: None, python_processes: PythonProcesses
) -> None:
    process = start(python_processes, file, STUCK, "--grace", "0.5s")
    await wait_until(lambda: "handler has begun" in process.output, SOON)

    process.send(signal.SIGTERM)

    assert await process.exited(SOON) == 1
    assert "event=box_drain_timed_out" in process.output
    assert (count(file, "pillarbox_inbox"), count(file, "pillarbox_dead_letters")) == (0, 0)


async def test_a_second_signal_ends_the_process_at_once(
    file: Path, one_stuck_order: None, python_processes: PythonProcesses
) -> None:
    process = start(python_processes, file, STUCK)
    await wait_until(lambda: "handler has begun" in process.output, SOON)

    process.send(signal.SIGTERM)
    await wait_until(lambda: "event=box_draining" in process.output, SOON)
    process.send(signal.SIGTERM)

    assert await process.exited(SOON) == 128 + signal.SIGTERM
    assert count(file, "pillarbox_inbox") == 0


async def test_a_program_that_cannot_start_says_why(file: Path, python_processes: PythonProcesses) -> None:
    process = start(python_processes, file, "tests.integration.cli_programs.nothing:box")

    assert await process.exited(SOON) == 2
    assert process.output.startswith("Error: 'tests.integration.cli_programs.nothing' cannot be imported")
    assert "Traceback" not in process.output


async def test_tables_that_are_missing_are_an_error_of_one_line(
    postgresql_url: str, python_processes: PythonProcesses
) -> None:
    process = python_processes.start("pillarbox", "run", SHOP, env={"PILLARBOX_STORE": postgresql_url})

    assert await process.exited(SOON) == 2
    assert "Error: the store has no Pillarbox tables; create them with: pillarbox migrate" in process.output
    assert "Traceback" not in process.output


async def test_five_migrations_at_once_apply_each_step_once(
    postgresql_url: str, python_processes: PythonProcesses
) -> None:
    arguments = ("migrate", "--store", postgresql_url, "--json")
    five = [python_processes.start("pillarbox", *arguments) for _ in range(5)]

    assert [await process.exited(SOON) for process in five] == [0] * 5

    applied = [json.loads(process.output)["applied"] for process in five]
    assert sorted(applied) == [[], [], [], [], list(range(1, CURRENT_VERSION + 1))]
    async with asyncio.timeout(30), Pillarbox("shop", store=postgresql_url) as box:
        assert (await box.health()).status == "ok"
