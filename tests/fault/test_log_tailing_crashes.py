"""Log tailing relays killed inside large transactions: nothing is lost, no more than the window is sent twice."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from pillarbox import RelaySettings
from tests import effort
from tests.fault.programs import relay
from tests.fault.recording import count_records, lines
from tests.fault.story import Setting, prepare
from tests.waiting import wait_until

if TYPE_CHECKING:
    from random import Random

    from pillarbox import Pillarbox
    from tests.fault.workers import Worker, Workers

PATIENCE = timedelta(seconds=240)
KEYS = 50
FILL = text(
    "INSERT INTO pillarbox_outbox (id, aggregate_type, aggregate_id, event_type, payload, content_type, headers,"
    " destination, message_key, slot, created_at)"
    " SELECT 'm-' || n, 'ledger', 'a-' || n % 50, 'ledger.entered', convert_to(format("
    ' \'{"account": "a-%s", "seq": %s, "token": "t-%s", "filler": "%s"}\','
    " n % 50, n / 50 + 1, n, repeat('x', 300)), 'UTF8'),"
    " 'application/json', '{\"pillarbox-schema-version\": \"1\"}', 'topic:ledger', 'a-' || n % 50, n % 64, 0"
    " FROM generate_series(0, CAST(:count AS integer) - 1) AS n"
)


def log_setting(url: str, *, window: int, lease_s: float) -> Setting:
    relay_settings = RelaySettings(
        kind="log",
        window=window,
        lease=timedelta(seconds=lease_s),
        longest_poll=timedelta(milliseconds=20),
    )
    return Setting(store=url.replace("postgresql://", "postgresql+asyncpg://"), relay=relay_settings)


async def fill_in_one_transaction(box: Pillarbox, count: int) -> None:
    async with box.transaction() as tx:
        await tx.execute(FILL, {"count": count})


async def test_killed_inside_a_transaction_a_relay_repeats_no_more_than_the_window(
    postgresql_url: str, workers: Workers, rng: Random
) -> None:
    setting = log_setting(postgresql_url, window=30, lease_s=1)
    box = setting.box()
    await prepare(setting, [])
    log, kills, count = workers.folder / "broker.log", 5, 1_000
    first = workers.start(relay, setting, log, 1)
    await wait_until(lambda: _is_read(box), PATIENCE)
    await fill_in_one_transaction(box, count)

    running = first
    for _ in range(kills):
        target = count_records(log) + rng.randrange(20, 150)
        await wait_until(lambda at=target: count_records(log) >= at, PATIENCE)
        running.kill()
        running = workers.start(relay, setting, log, 1)
    await wait_until(lambda: _is_empty(box), PATIENCE)

    copies = Counter(str(line["token"]) for line in lines(log))
    repeated = copies.total() - len(copies)
    print(f"{kills} kills, {repeated} repeated")
    assert len(copies) == count
    assert repeated <= 30 * kills
    _assert_first_copies_in_order(log)
    await box.store.close()


async def test_a_large_transaction_is_published_in_bounded_memory(postgresql_url: str, workers: Workers) -> None:
    window, count = 1500, effort.of(200_000, 80_000)
    setting = log_setting(postgresql_url, window=window, lease_s=5)
    box = setting.box()
    await prepare(setting, [])
    log = workers.folder / "broker.log"
    first = workers.start(relay, setting, log)
    await wait_until(lambda: _is_read(box), PATIENCE)
    await fill_in_one_transaction(box, 5_000)
    await wait_until(lambda: _is_empty(box), PATIENCE)
    before = _peak_mib(first)

    await fill_in_one_transaction(box, count)
    await wait_until(lambda: _size(log) > 50 * count, PATIENCE)
    grown = _peak_mib(first) - before
    first.kill()
    second = workers.start(relay, setting, log)
    await wait_until(lambda: _is_empty(box), PATIENCE)
    grown_later = _peak_mib(second) - before

    tokens = Counter(line.rpartition(b'"token": ')[2] for line in log.read_bytes().splitlines())
    repeated = tokens.total() - len(tokens)
    print(f"grown by {grown:.0f} and {grown_later:.0f} MiB, {repeated} repeated")
    assert len(tokens) == count, "the tokens of the first 5,000 are among them"
    assert 0 <= repeated - 5_000 <= window
    assert grown < 48
    assert grown_later < 48
    await box.store.close()


async def test_a_frozen_relay_is_replaced_and_settles_nothing_when_it_thaws(
    postgresql_url: str, workers: Workers
) -> None:
    setting = log_setting(postgresql_url, window=30, lease_s=1.5)
    box = setting.box()
    await prepare(setting, [])
    log = workers.folder / "broker.log"
    first = workers.start(relay, setting, log, 2)
    await wait_until(lambda: _is_read(box), PATIENCE)
    second = workers.start(relay, setting, log, 2)
    await fill_in_one_transaction(box, 400)
    await wait_until(lambda: count_records(log) >= 60, PATIENCE)

    first.freeze()
    frozen_at = count_records(log)
    try:
        await wait_until(lambda: count_records(log) >= frozen_at + 100, PATIENCE, what="the second relay goes on")
    except AssertionError as error:
        for table in ("pg_stat_activity", "pg_locks", "pg_replication_slots", "pillarbox_leases"):
            error.add_note(f"{table}: {await _scalar(box, f'SELECT json_agg(one) FROM {table} AS one')}")
        raise
    first.thaw()
    await wait_until(lambda: _is_empty(box), PATIENCE)

    by_sender = Counter(str(line["sender"]) for line in lines(log))
    copies = Counter(str(line["token"]) for line in lines(log))
    assert set(by_sender) == {first.name, second.name}
    assert len(copies) == 400
    assert copies.total() - 400 <= 2 * 30
    _assert_first_copies_in_order(log)
    await box.store.close()


def _assert_first_copies_in_order(log: Path) -> None:
    seen: dict[str, int] = {}
    for line in lines(log):
        account, number = str(line["account"]), int(str(line["seq"]))
        last = seen.get(account, 0)
        assert number <= last + 1, f"{account}: {number} came right after {last}"
        seen[account] = max(last, number)


async def _is_empty(box: Pillarbox) -> bool:
    return await _scalar(box, "SELECT count(*) FROM (SELECT FROM pillarbox_outbox LIMIT 1) AS first") == 0


async def _is_read(box: Pillarbox) -> bool:
    return (
        await _scalar(box, "SELECT count(*) FROM pg_replication_slots WHERE active AND database = current_database()")
        == 1
    )


async def _scalar(box: Pillarbox, statement: str) -> object:
    async with box.transaction() as tx:
        return (await tx.execute(text(statement))).scalar_one()


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _peak_mib(worker: Worker) -> float:
    status = Path(f"/proc/{worker.pid}/status")
    if not status.exists():
        pytest.skip("memory is read from /proc")
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024
