"""DBOS: a workflow of four steps, or of four calls of another over a queue, called by as many threads as run at a time.

A step is a row in ``operation_outputs`` in a transaction of its own, after a read that looks for it. A step that
updates a row of the user's is, besides, a row of the data source's in that transaction.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
from dbos import DBOS, SQLAlchemyDatasource
from sqlalchemy import text

from benchmarks.measure import Stopwatch, Task, task
from benchmarks.sagas import CREATE_ACCOUNTS, IDLE_S, STEPS, Times, account_of, state_of

QUEUE = "participants"
UPDATE = text("UPDATE accounts SET orders = orders + 1 WHERE id = :id")
sources: list[SQLAlchemyDatasource] = []
"""The database of the user's, once there is one."""


@DBOS.step()
def first(state: dict[str, Any]) -> None:
    """Do nothing."""


@DBOS.step()
def second(state: dict[str, Any]) -> None:
    """Do nothing."""


@DBOS.step()
def third(state: dict[str, Any]) -> None:
    """Do nothing."""


@DBOS.step()
def fourth(state: dict[str, Any]) -> None:
    """Do nothing."""


@DBOS.workflow()
def of_steps(state: dict[str, Any]) -> None:
    """Take four steps."""
    for step in (first, second, third, fourth):
        step(state)


@DBOS.workflow()
def participant(state: dict[str, Any]) -> None:
    """Do nothing."""


@DBOS.workflow()
def of_requests(state: dict[str, Any]) -> None:
    """Ask a participant four times over a queue, and wait for its answer."""
    for _ in range(STEPS):
        DBOS.enqueue_workflow(QUEUE, participant, state).get_result(polling_interval_sec=IDLE_S)


@DBOS.workflow()
def of_updates(state: dict[str, Any]) -> None:
    """Take four steps of one UPDATE each."""
    (source,) = sources

    def update() -> None:
        source.sql_session().execute(UPDATE, {"id": account_of(state["order_id"])})

    for _ in range(STEPS):
        source.run_tx_step({"name": "update", "isolation_level": "READ COMMITTED"}, update)


SAGAS = {"steps": of_steps, "updates": of_updates, "requests": of_requests}


def launch(todo: Task, kind: str, *, threads: int) -> None:
    """Start DBOS on the task's database, with what sagas of this kind need."""
    if todo.url.startswith("sqlite"):  # a file remembers it; DBOS itself would stay with the slower rollback journal
        connection = sqlite3.connect(todo.file)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
    DBOS(
        config={
            "name": "bench",
            "system_database_url": todo.url,
            "sys_db_pool_size": max(5, 2 * threads),
            "db_engine_kwargs": {"pool_pre_ping": False},  # half of its statements would be pings
            "log_level": "ERROR",
            "notification_listener_polling_interval_sec": IDLE_S,
        }
    )
    logging.getLogger("dbos").setLevel(logging.ERROR)
    if kind == "updates":
        with psycopg.connect(todo.url) as server:
            for statement in CREATE_ACCOUNTS:
                server.execute(statement)
        url = todo.url.replace("postgresql://", "postgresql+psycopg://")
        sources.append(SQLAlchemyDatasource.create(url, engine_kwargs={"pool_size": 2 * threads}))
    DBOS.launch()
    if kind == "requests":
        DBOS.register_queue(QUEUE, polling_interval_sec=IDLE_S)


def count_completed(todo: Task, name: str) -> int:
    """Count the workflows that lie in its table as done."""
    where = f"WHERE status = 'SUCCESS' AND name = '{name}'"
    if todo.url.startswith("sqlite"):
        with sqlite3.connect(todo.file) as connection:
            (count,) = connection.execute(f"SELECT count(*) FROM workflow_status {where}").fetchone()
        connection.close()
        return int(count)
    with psycopg.connect(todo.url) as server:
        row = server.execute(f"SELECT count(*) FROM dbos.workflow_status {where}").fetchone()
    assert row is not None
    return int(row[0])


def main() -> None:
    """Run all sagas."""
    todo = task()
    threads = int(todo.options.get("at_once", 1))
    kind = todo.options.get("kind", "steps")
    saga, times = SAGAS[kind], Times()
    launch(todo, kind, threads=threads)

    def run(number: int) -> None:
        start = time.perf_counter()
        saga(state_of(number))
        times.since(start)

    stopwatch = Stopwatch(todo)
    with ThreadPoolExecutor(threads) as pool:
        stopwatch.start()
        for _ in pool.map(run, range(todo.count)):
            pass
        stopwatch.report(count_completed(todo, saga.__qualname__), p50_ms=times.p50_ms)
    DBOS.destroy()


if __name__ == "__main__":
    main()
