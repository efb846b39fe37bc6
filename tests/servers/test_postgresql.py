"""The private PostgreSQL does what tests and benchmarks rely on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.processes import REPOSITORY
from tests.servers import PostgresServer, ServerError, ServerStartError
from tests.servers.folders import PID_FILE, clear_leftovers
from tests.servers.ports import free_port
from tests.servers.postgresql import SETTINGS
from tests.servers.processes import ProcessId, end_stranger
from tests.servers.unprivileged import RunAs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.server


@pytest.fixture
def database(private_postgresql_server: PostgresServer) -> str:
    """A database, with one table, on a server that the test may break."""
    url = private_postgresql_server.create_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    return url


def count_orders(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM orders").fetchone()
    assert row is not None
    return int(row[0])


def test_a_started_server_runs_sql(postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url) as connection:
        row = connection.execute("SELECT 'pillar ' || 'bøx', current_user").fetchone()

    assert row == ("pillar bøx", "pillarbox")


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, value in SETTINGS.items() if name != "shared_buffers"]
)
def test_the_server_has_the_settings_that_the_tests_need(
    postgresql_server: PostgresServer, name: str, value: str
) -> None:
    assert postgresql_server.execute(f"SHOW {name}") == [[value]]


def test_the_server_listens_on_loopback_only(postgresql_server: PostgresServer) -> None:
    assert postgresql_server.execute("SHOW listen_addresses") == [["127.0.0.1"]]
    assert postgresql_server.url == f"postgresql://pillarbox@127.0.0.1:{postgresql_server.port}/postgres"


def test_rows_come_back_as_text_with_any_character_in_them(postgresql_server: PostgresServer) -> None:
    rows = postgresql_server.execute("SELECT * FROM (VALUES (1, E'a\\nb|c'), (2, 'ü')) AS v")

    assert rows == [["1", "a\nb|c"], ["2", "ü"]]


def test_a_refused_statement_is_an_error_with_the_servers_words(postgresql_server: PostgresServer) -> None:
    with pytest.raises(ServerError, match='relation "nowhere" does not exist'):
        postgresql_server.execute("SELECT * FROM nowhere")


def test_every_database_is_fresh(postgresql_server: PostgresServer) -> None:
    first, second = postgresql_server.create_database(), postgresql_server.create_database()
    with psycopg.connect(first) as connection:
        connection.execute("CREATE TABLE orders (id int)")

    with psycopg.connect(second) as connection:
        tables = connection.execute("SELECT 1 FROM pg_tables WHERE tablename = 'orders'").fetchall()

    assert first != second
    assert tables == []


def test_a_database_may_be_copied_from_a_template(postgresql_server: PostgresServer) -> None:
    template = postgresql_server.create_database()
    with psycopg.connect(template) as connection:
        connection.execute("CREATE TABLE orders AS SELECT 7 AS id")

    copy = postgresql_server.create_database(template=template)

    assert count_orders(copy) == 1


def test_a_database_in_use_and_with_a_replication_slot_can_be_dropped(postgresql_server: PostgresServer) -> None:
    url = postgresql_server.create_database()
    with psycopg.connect(url) as connection:
        connection.execute("SELECT pg_create_logical_replication_slot('relay', 'pgoutput')")
        connection.commit()

        postgresql_server.drop_database(url)

    name = url.rpartition("/")[2]
    assert postgresql_server.execute(f"SELECT 1 FROM pg_database WHERE datname = '{name}'") == []
    assert postgresql_server.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = 'relay'") == []


def test_logical_decoding_works(postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute("SELECT pg_create_logical_replication_slot('decoded', 'test_decoding')")
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        connection.execute("INSERT INTO orders VALUES (41)")

        changes = connection.execute("SELECT data FROM pg_logical_slot_get_changes('decoded', NULL, NULL)").fetchall()

    assert any("INSERT: id[integer]:41" in change for (change,) in changes)


def test_committed_rows_survive_kill_9_and_restart(private_postgresql_server: PostgresServer, database: str) -> None:
    connection = psycopg.connect(database, autocommit=True)
    for number in range(50):
        connection.execute("INSERT INTO orders VALUES (%s)", (number,))
    connection.execute("BEGIN")
    connection.execute("INSERT INTO orders VALUES (999)")

    private_postgresql_server.kill()
    assert (private_postgresql_server.data / "postmaster.pid").exists()
    private_postgresql_server.start()

    assert count_orders(database) == 50
    with pytest.raises(psycopg.OperationalError):
        connection.commit()
    connection.close()


def test_a_server_may_be_killed_again_and_again_under_load(
    private_postgresql_server: PostgresServer, database: str
) -> None:
    acknowledged = 0
    for _ in range(5):
        killer = threading.Timer(0.05, private_postgresql_server.kill)
        killer.start()
        acknowledged += insert_until_cut(database)
        killer.join()
        private_postgresql_server.start()

    assert acknowledged > 0
    assert acknowledged <= count_orders(database) <= acknowledged + 5


def insert_until_cut(url: str) -> int:
    """Insert rows, one transaction each, until the server is gone; return how many commits were acknowledged."""
    acknowledged = 0
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url, autocommit=True) as connection:
        while True:
            connection.execute("INSERT INTO orders SELECT coalesce(max(id), 0) + 1 FROM orders")
            acknowledged += 1
    return acknowledged


def test_an_orderly_restart_keeps_address_and_rows(private_postgresql_server: PostgresServer, database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("INSERT INTO orders VALUES (1)")
    before = private_postgresql_server.url

    private_postgresql_server.restart()

    assert private_postgresql_server.url == before
    assert count_orders(database) == 1


def test_starting_a_running_server_changes_nothing(postgresql_server: PostgresServer) -> None:
    pid = postgresql_server.process.pid

    postgresql_server.start()

    assert postgresql_server.process.pid == pid


def test_a_paused_server_answers_nothing_until_it_is_resumed(
    private_postgresql_server: PostgresServer, database: str
) -> None:
    answers: list[int] = []
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("INSERT INTO orders VALUES (1)")
        private_postgresql_server.pause()
        asking = threading.Thread(
            target=lambda: answers.extend(row[0] for row in connection.execute("SELECT id FROM orders"))
        )
        asking.start()
        asking.join(0.2)
        while_paused = list(answers)

        private_postgresql_server.resume()
        asking.join(10)

    assert while_paused == []
    assert answers == [1]


@pytest.mark.parametrize("end", [PostgresServer.stop, PostgresServer.kill])
@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
def test_an_ended_server_leaves_no_process(
    private_postgresql_server: PostgresServer, end: Callable[[PostgresServer], None], paused: bool
) -> None:
    with psycopg.connect(private_postgresql_server.url):
        family = private_postgresql_server.process.family
        if paused:
            private_postgresql_server.pause()

        end(private_postgresql_server)

    assert len(family) > 5  # the postmaster, its background processes and the session's backend
    assert not any(member.alive for member in family)
    assert not private_postgresql_server.running


@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
def test_a_closed_server_leaves_neither_process_nor_folder(paused: bool) -> None:
    with PostgresServer() as server, psycopg.connect(server.url):
        family = server.process.family
        if paused:
            server.pause()

        server.close()

    assert not any(member.alive for member in family)
    assert not server.folder.exists()


def test_two_servers_run_side_by_side(
    postgresql_server: PostgresServer, private_postgresql_server: PostgresServer
) -> None:
    servers = (postgresql_server, private_postgresql_server)

    folders = [server.execute("SHOW data_directory")[0][0] for server in servers]

    assert folders == [str(server.data) for server in servers]
    assert postgresql_server.port != private_postgresql_server.port


def test_a_first_start_evades_a_port_that_somebody_took() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        ports = iter([taken.getsockname()[1], free_port()])
        with PostgresServer(choose_port=lambda: next(ports)) as server:
            assert server.port != taken.getsockname()[1]
            assert server.execute("SELECT 1") == [["1"]]


def test_a_restart_waits_for_its_own_port(private_postgresql_server: PostgresServer) -> None:
    before = private_postgresql_server.port
    private_postgresql_server.stop()
    taken = socket.create_server(("127.0.0.1", private_postgresql_server.port))
    threading.Timer(0.3, taken.close).start()

    private_postgresql_server.start()

    assert taken.fileno() == -1
    assert private_postgresql_server.port == before
    assert private_postgresql_server.execute("SELECT 1") == [["1"]]


@pytest.fixture
def other_postgres() -> Iterator[PostgresServer]:
    """A second running PostgreSQL, whose pid a lock file may name."""
    with PostgresServer() as other:
        yield other


def test_a_start_waits_for_a_lock_files_postgres_to_die(
    private_postgresql_server: PostgresServer, other_postgres: PostgresServer
) -> None:
    private_postgresql_server.kill()
    plant_lock(private_postgresql_server, other_postgres.process.pid)
    threading.Timer(0.3, other_postgres.kill).start()

    private_postgresql_server.start()

    assert not other_postgres.running
    assert private_postgresql_server.execute("SELECT 1") == [["1"]]


def test_a_lock_file_whose_pid_now_belongs_to_another_program_is_forgotten(
    private_postgresql_server: PostgresServer,
) -> None:
    private_postgresql_server.kill()
    with subprocess.Popen(["sleep", "60"]) as reuser:
        plant_lock(private_postgresql_server, reuser.pid)

        private_postgresql_server.start(within=timedelta(seconds=10))

        reuser.kill()
    assert private_postgresql_server.execute("SELECT 1") == [["1"]]


def plant_lock(server: PostgresServer, pid: int) -> None:
    lock = server.data / "postmaster.pid"
    lock.write_text("\n".join([str(pid), *lock.read_text().splitlines()[1:]]) + "\n")


def test_a_start_that_cannot_succeed_fails_at_once_with_the_logs_tail() -> None:
    server = PostgresServer(settings={"wal_level": "nonsense"})

    with pytest.raises(ServerStartError, match="invalid value for parameter"), server:
        pass

    assert not server.running
    assert not server.folder.exists()


def test_a_start_that_never_gets_ready_ends_at_its_deadline() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        server = PostgresServer(choose_port=lambda: taken.getsockname()[1])
        try:
            with pytest.raises(ServerStartError, match="Address already in use"):
                server.start(within=timedelta(seconds=2))
            assert not server.running
        finally:
            server.close()


def test_what_a_killed_run_left_behind_is_cleared_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # so that no other run clears it away
    command = [sys.executable, "-m", "tests.servers", "--json", "postgresql"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        url = json.loads(run.stdout.readline())["postgresql"]
        with psycopg.connect(url) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
        assert row is not None
        run.kill()
        run.wait()
    folder = Path(row[0]).parent
    left = ProcessId.read(folder / PID_FILE)
    assert left is not None
    before = left.alive

    clear_leftovers()

    assert (before, left.alive) == (True, False)
    assert list(tmp_path.iterdir()) == []
    assert not folder.exists()


@pytest.mark.parametrize(("number", "names"), [(signal.SIGINT, ["postgresql", "redis"]), (signal.SIGTERM, [])])
def test_the_command_prints_the_urls_and_ends_its_servers_when_asked(number: signal.Signals, names: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.servers", *names], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        url = run.stdout.readline().strip()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)

        run.send_signal(number)

        assert run.wait(20) == 0
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)


def test_a_stranger_whose_pid_was_reused_is_not_touched() -> None:
    with subprocess.Popen(["sleep", "60"]) as innocent:
        end_stranger(ProcessId(innocent.pid, "some other start"))

        assert innocent.poll() is None
        innocent.kill()


def test_a_free_port_lies_below_those_of_outgoing_connections() -> None:
    ports = {free_port() for _ in range(50)}

    assert all(20_000 <= port < 32_000 for port in ports)
    assert len(ports) > 40


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_without_user_namespaces_the_server_runs_as_a_user_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.postgresql.unprivileged", lambda: RunAs(user="postgres"))

    with PostgresServer() as server:
        server.kill()
        server.start()
        owner = Path(f"/proc/{server.process.pid}").owner()
        rows = server.execute("SELECT 1")

    assert owner == "postgres"
    assert rows == [["1"]]
    assert not server.folder.exists()
