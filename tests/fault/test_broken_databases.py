"""A database that restarts, ends connections, is full or falls silent: nothing is lost, work goes on by itself.

The relays of every kind suffer at once, each kind in a database of its own.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pillarbox.errors import StoreUnavailableError
from tests import effort
from tests.fault.programs import Demand, relay, write
from tests.fault.recording import count_records, records
from tests.fault.story import POSTGRESQL_KINDS, WINDOW, Setting, Writing, committed, pending, prepare, stay_open
from tests.history import check
from tests.servers import PostgresServer
from tests.servers.folders import private_folder, remove_folder
from tests.servers.proxy import Proxy
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from pillarbox import Pillarbox
    from pillarbox.relay import RelayKind
    from tests.fault.workers import Worker, Workers

DRAIN = timedelta(seconds=90)
LEASE = timedelta(seconds=2)  # a relay that opens its log on a busy machine must be able to keep it
ACCOUNTS = [f"account-{number}" for number in range(10)]
RESTARTS = effort.of(10, 3)
LOST = effort.of(3, 1)
TERMINATE_EVERY_MS, TERMINATE_FOR_MS = 500, effort.of(30_000, 8_000)
END_CLIENTS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND backend_type IN ('client backend', 'walsender')"
)


@dataclass(slots=True)
class Theatre:
    """One kind of relay at work in a database of its own."""

    kind: RelayKind
    setting: Setting
    box: Pillarbox
    folder: Path
    workers: Workers
    relays: list[Worker]
    writer: Worker | None = None

    @property
    def log(self) -> Path:
        """What the broker took."""
        return self.folder / f"{self.kind}.broker"

    async def judge(self, *, times: int) -> None:
        """End the writing, wait until everything is published, and judge; ``times`` is how often a relay was hit."""
        (self.folder / f"{self.kind}.stop").touch()
        assert self.writer is not None
        assert await self.writer.ended(DRAIN) == 0
        await wait_until(self._is_drained, DRAIN, what=f"the end of what waits for the {self.kind} relay")
        entries = await committed(self.box.store)
        verdict = check(entries, [copy.event for copy in records(self.log)])
        bound = WINDOW * times * len(self.relays)
        print(f"{self.kind}: {len(entries)} entries, {verdict.duplicates} duplicates, bound {bound}")
        verdict.assert_sound(max_duplicates=bound)
        assert [one.exit_code for one in self.relays] == [None] * len(self.relays), "the processes live"
        await self.box.store.close()

    async def _is_drained(self) -> bool:
        try:
            return await pending(self.box.store) == 0
        except StoreUnavailableError:  # a pooled connection that had ended meanwhile
            return False


async def play(server: PostgresServer, workers: Workers, rng: Random, *, through: int | None = None) -> list[Theatre]:
    """Start a relay and a writer of every kind; ``through`` is the port by which the relays reach the server."""
    theatres: list[Theatre] = []
    for kind in POSTGRESQL_KINDS:
        url = server.create_database().replace("postgresql://", "postgresql+asyncpg://")
        setting = Setting(store=url, kind=kind, lease=LEASE, answer_within=2 * LEASE)
        await prepare(setting, ACCOUNTS)
        theatre = Theatre(kind, setting, setting.box(), workers.folder, workers, [])
        stop = workers.folder / f"{kind}.stop"
        by = setting if through is None else replace(setting, store=url.replace(f":{server.port}/", f":{through}/"))
        theatre.relays.append(workers.start(relay, by, theatre.log, name=f"relay-{kind}"))
        plan = Writing(accounts=ACCOUNTS, events=10**6, hold_ms=40, seed=rng.randrange(10**6))
        demand = Demand(writers=3, commits=workers.folder / f"{kind}.commits", stop=stop, backlog=1_000, stubborn=True)
        theatre.writer = workers.start(write, setting, plan, demand)
        theatres.append(theatre)
    await progress(theatres)
    return theatres


async def progress(theatres: Sequence[Theatre], copies: int = 30) -> None:
    """Wait until every kind has published some more."""
    before = {theatre.kind: count_records(theatre.log) for theatre in theatres}
    await wait_until(
        lambda: all(count_records(theatre.log) >= before[theatre.kind] + copies for theatre in theatres),
        DRAIN,
        what="progress of every kind",
    )


async def test_a_server_that_crashes_again_and_again_loses_nothing(
    private_postgresql_server: PostgresServer, workers: Workers, rng: Random
) -> None:
    theatres = await play(private_postgresql_server, workers, rng)

    for _ in range(RESTARTS):
        await stay_open(rng.uniform(100, 400))
        private_postgresql_server.process.send(signal.SIGQUIT)  # what "pg_ctl stop -m immediate" sends
        await asyncio.to_thread(private_postgresql_server.process.wait, timedelta(seconds=20))
        await asyncio.to_thread(private_postgresql_server.start)
    await progress(theatres)

    for theatre in theatres:
        await theatre.judge(times=RESTARTS)


async def test_connections_that_are_ended_again_and_again_cost_nothing(
    private_postgresql_server: PostgresServer, workers: Workers, rng: Random
) -> None:
    theatres = await play(private_postgresql_server, workers, rng)

    times = int(TERMINATE_FOR_MS / TERMINATE_EVERY_MS)
    for _ in range(times):
        await stay_open(TERMINATE_EVERY_MS)
        await asyncio.to_thread(private_postgresql_server.execute, END_CLIENTS)
    await progress(theatres)

    for theatre in theatres:
        await theatre.judge(times=times)


async def test_a_relay_whose_connections_fall_silent_goes_on_when_they_end(
    private_postgresql_server: PostgresServer, workers: Workers, rng: Random
) -> None:
    with Proxy(private_postgresql_server.port) as proxy:
        theatres = await play(private_postgresql_server, workers, rng, through=proxy.port)

        for _ in range(LOST):
            proxy.swallow()
            await stay_open(2 * LEASE / timedelta(milliseconds=1))
            proxy.forward()
            await progress(theatres)

        for theatre in theatres:
            await theatre.judge(times=LOST)


async def test_a_relay_whose_connections_are_forgotten_gives_them_up(
    private_postgresql_server: PostgresServer, workers: Workers, rng: Random
) -> None:
    with Proxy(private_postgresql_server.port) as proxy:
        theatres = await play(private_postgresql_server, workers, rng, through=proxy.port)

        for _ in range(LOST):
            proxy.forget()  # and nobody will ever tell
            await progress(theatres)

        for theatre in theatres:
            await theatre.judge(times=LOST)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 64 MB."""
    folder = private_folder("small-disk")
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=False).returncode != 0:
        remove_folder(folder)
        pytest.skip("no file system can be mounted here; root can")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)
    remove_folder(folder)


async def test_a_full_disk_stops_nothing_for_good(
    private_postgresql_server: PostgresServer, workers: Workers, rng: Random, small_disk: Path
) -> None:
    server = private_postgresql_server
    server.run_as().give(small_disk.parent)
    space = small_disk / "space"
    space.mkdir(mode=0o700)
    server.run_as().give(space)
    server.execute(f"CREATE TABLESPACE small LOCATION '{space}'; ALTER SYSTEM SET default_tablespace = 'small'")
    server.execute("SELECT pg_reload_conf()")
    theatres = await play(server, workers, rng)

    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    await wait_until(lambda: _has_met_a_full_disk(server), DRAIN)
    await stay_open(2000)
    filler.unlink()
    await progress(theatres)

    for theatre in theatres:
        await theatre.judge(times=3)
    workers.end_all()
    for theatre in theatres:
        server.drop_database(theatre.setting.store.replace("+asyncpg", ""))
    server.execute("ALTER SYSTEM RESET default_tablespace")
    server.execute("SELECT pg_reload_conf(); DROP TABLESPACE small")


def _has_met_a_full_disk(server: PostgresServer) -> bool:
    return "No space left on device" in server.log.read_text(errors="replace")
