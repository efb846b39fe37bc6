"""Fixtures that all tests share.

Servers: a fixture that starts one is named ``…_server``, and every test that uses such a fixture, directly or through
another, is marked ``server``; so is one that can look fixtures up by ``request`` and has a server's name in its
parameters. ``-m "not server"`` leaves them out. A server that cannot be had fails in CI and is a loud skip elsewhere.

Files: where the machine has memory to spare they lie in memory, unless ``TMPDIR`` says where. What a killed process had
written is there all the same; only the end of the whole machine, which no test plays, would show a difference.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import secrets
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import settings
from sqlalchemy import make_url

from pillarbox.stores.postgresql import postgresql_store
from tests.processes import PythonProcesses
from tests.servers import (
    KNOWN,
    KafkaServer,
    MariaDbServer,
    NatsServer,
    PostgresServer,
    RabbitMqServer,
    RedisServer,
    Server,
    ServerMissingError,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 8 << 30
_missing_servers = pytest.StashKey[list[str]]()
settings.register_profile("quick", max_examples=25)


def pytest_configure(config: pytest.Config) -> None:
    """Make a place for what is skipped, and choose the one for files, for this process and all that it starts."""
    config.stash[_missing_servers] = []
    if "TMPDIR" not in os.environ and _has_room(MEMORY):
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None


def _has_room(folder: Path) -> bool:
    available = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split() if folder.is_dir() else []
    return bool(available) and min(int(available[0]) << 10, shutil.disk_usage(folder).free) >= ENOUGH_BYTES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a server, and have those come first whose server is slow to start, each kind together.

    Processes that share the tests take from the end of each other's lists: so one of them does all of these, and such
    a server is started once and not by each of them.
    """
    for item in items:
        fixtures: list[str] = getattr(item, "fixturenames", [])
        if _names_server(item) or any(name.endswith("_server") for name in fixtures):
            item.add_marker("server")
    items.sort(key=_slowest_server)


def _names_server(item: pytest.Item, kinds: Sequence[type[Server]] = KNOWN) -> bool:
    """Whether the test can look fixtures up, and its parameters name one of these servers."""
    parameters = item.name.partition("[")[2]
    return "request" in getattr(item, "fixturenames", []) and any(kind.name in parameters for kind in kinds)


def _slowest_server(item: pytest.Item) -> int:
    fixtures = " ".join(getattr(item, "fixturenames", []))
    slow = (RabbitMqServer, KafkaServer)
    uses = (f"{kind.name}_server" in fixtures or _names_server(item, [kind]) for kind in slow)
    return next((place for place, is_used in enumerate(uses) if is_used), len(slow))


def pytest_collection_finish() -> None:
    """Have the collector of garbage pass by what is there to the end: thousands of tests, and all that was imported.

    And have it come less often: what a test leaves behind goes by the counts of references.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say aloud which servers were missing: a green run without them proves less."""
    if missing := config.stash[_missing_servers]:
        terminalreporter.section("SERVERS MISSING: their tests were skipped", sep="!", red=True, bold=True)
        for reason in missing:
            terminalreporter.line(reason)


def skip_or_fail(missing: ServerMissingError, config: pytest.Config) -> NoReturn:
    """End the test for want of a server: as a failure in CI, else as a skip that the summary repeats."""
    if os.environ.get("CI", "").lower() not in {"", "0", "false"}:
        pytest.fail(f"in CI every server must be there: {missing}", pytrace=False)
    config.stash[_missing_servers].append(str(missing))
    pytest.skip(str(missing))


@contextmanager
def started(server: Server, config: pytest.Config) -> Generator[None]:
    """Have ``server`` run for as long as the block lasts; where it is missing the test ends."""
    try:
        server.start()
        yield
    except ServerMissingError as missing:
        skip_or_fail(missing, config)
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgresql_server(pytestconfig: pytest.Config) -> Iterator[PostgresServer]:
    """The PostgreSQL of the whole run. Do not kill or pause it: take ``private_postgresql_server`` for that."""
    server = PostgresServer()
    with started(server, pytestconfig):
        yield server


@pytest.fixture(scope="module")
def _module_postgresql_server(pytestconfig: pytest.Config) -> Iterator[PostgresServer]:
    server = PostgresServer()
    with started(server, pytestconfig):
        yield server


@pytest.fixture
def private_postgresql_server(_module_postgresql_server: PostgresServer) -> PostgresServer:
    """A PostgreSQL of this module alone, to be killed, paused and restarted at will; each test finds it serving."""
    _module_postgresql_server.start()
    return _module_postgresql_server


@pytest.fixture
def postgresql_url(postgresql_server: PostgresServer) -> Iterator[str]:
    """A fresh, empty database of this test alone: ``postgresql://user@127.0.0.1:port/name``."""
    url = postgresql_server.create_database()
    yield url
    postgresql_server.drop_database(url)


@pytest.fixture(scope="session")
def _postgresql_with_tables(postgresql_server: PostgresServer) -> str:
    """A database with our tables and nothing in them, for copies: to copy it is quicker than to make them."""
    url = postgresql_server.create_database()

    async def migrate() -> None:
        store = postgresql_store(make_url(url))
        await store.migrate()
        await store.close()

    with ThreadPoolExecutor(1) as aside:  # whoever asks first may have a loop of its own
        aside.submit(asyncio.run, migrate()).result()
    return url


@pytest.fixture
def migrated_postgresql_url(postgresql_server: PostgresServer, _postgresql_with_tables: str) -> Iterator[str]:
    """A database of this test alone that has our tables, and nothing in them."""
    url = postgresql_server.create_database(template=_postgresql_with_tables)
    yield url
    postgresql_server.drop_database(url)


@pytest.fixture(scope="module")
def postgresql_module_url(postgresql_server: PostgresServer) -> Iterator[str]:
    """A fresh database that the tests of one module share; also a template for ``create_database(template=…)``."""
    url = postgresql_server.create_database()
    yield url
    postgresql_server.drop_database(url)


@pytest.fixture(scope="session")
def mariadb_server(pytestconfig: pytest.Config) -> Iterator[MariaDbServer]:
    """The MariaDB of the whole run. Do not kill or pause it: take ``private_mariadb_server`` for that."""
    server = MariaDbServer()
    with started(server, pytestconfig):
        yield server


@pytest.fixture(scope="module")
def _module_mariadb_server(pytestconfig: pytest.Config) -> Iterator[MariaDbServer]:
    server = MariaDbServer()
    with started(server, pytestconfig):
        yield server


@pytest.fixture
def private_mariadb_server(_module_mariadb_server: MariaDbServer) -> MariaDbServer:
    """A MariaDB of this module alone, to be killed, paused and restarted at will; each test finds it serving."""
    _module_mariadb_server.start()
    return _module_mariadb_server


@pytest.fixture
def mariadb_url(mariadb_server: MariaDbServer) -> Iterator[str]:
    """A fresh, empty database of this test alone: ``mysql://user@127.0.0.1:port/name``."""
    url = mariadb_server.create_database()
    yield url
    mariadb_server.drop_database(url)


@pytest.fixture(scope="module")
def mariadb_module_url(mariadb_server: MariaDbServer) -> Iterator[str]:
    """A fresh database that the tests of one module share."""
    url = mariadb_server.create_database()
    yield url
    mariadb_server.drop_database(url)


@pytest.fixture(scope="session")
def redis_server(pytestconfig: pytest.Config) -> Iterator[RedisServer]:
    """The Redis of the whole run. Do not kill or pause it, nor flush it: take ``private_redis_server`` for that."""
    server = RedisServer()
    with started(server, pytestconfig):
        yield server


@pytest.fixture
def private_redis_server(pytestconfig: pytest.Config) -> Iterator[RedisServer]:
    """A Redis of this test alone, to be killed, paused and emptied at will."""
    server = RedisServer()
    with started(server, pytestconfig):
        yield server


@pytest.fixture(scope="session")
def nats_server(pytestconfig: pytest.Config) -> Iterator[NatsServer]:
    """The NATS of the whole run. Do not kill or pause it: take ``private_nats_server`` for that."""
    server = NatsServer()
    with started(server, pytestconfig):
        yield server


@pytest.fixture
def private_nats_server(pytestconfig: pytest.Config) -> Iterator[NatsServer]:
    """A NATS of this test alone, to be killed and paused at will."""
    server = NatsServer()
    with started(server, pytestconfig):
        yield server


@pytest.fixture(scope="session")
def kafka_server(pytestconfig: pytest.Config) -> Iterator[KafkaServer]:
    """The Kafka of the whole run. Do not kill or pause it: take ``private_kafka_server`` for that."""
    server = KafkaServer()
    with started(server, pytestconfig):
        yield server


@pytest.fixture(scope="session")
def rabbitmq_server(pytestconfig: pytest.Config) -> Iterator[RabbitMqServer]:
    """The RabbitMQ of the whole run. Do not kill or pause it: take ``private_rabbitmq_server`` for that."""
    server = RabbitMqServer()
    with started(server, pytestconfig):
        yield server


@pytest.fixture(scope="module")
def _module_kafka_server(pytestconfig: pytest.Config) -> Iterator[KafkaServer]:
    server = KafkaServer()
    with started(server, pytestconfig):
        yield server


@pytest.fixture(scope="module")
def _module_rabbitmq_server(pytestconfig: pytest.Config) -> Iterator[RabbitMqServer]:
    server = RabbitMqServer(
        internals={"dead_letter_worker_publisher_confirm_timeout": 1000},
        plugins=["rabbitmq_management", "rabbitmq_shovel"],
    )
    with started(server, pytestconfig):
        yield server


@pytest.fixture
def private_kafka_server(_module_kafka_server: KafkaServer) -> KafkaServer:
    """A Kafka of this module alone, to be killed, paused and restarted at will; each test finds it serving."""
    _module_kafka_server.start()
    return _module_kafka_server


@pytest.fixture
def private_rabbitmq_server(_module_rabbitmq_server: RabbitMqServer) -> RabbitMqServer:
    """A RabbitMQ of this module alone, to be killed, paused and restarted at will; each test finds it serving.

    It can be managed by HTTP, and soon tries again to move what it put aside.
    """
    _module_rabbitmq_server.start()
    return _module_rabbitmq_server


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A database file of this test alone that does not exist yet: ``sqlite:////path/pillarbox.db``."""
    return f"sqlite:///{tmp_path / 'pillarbox.db'}"


@pytest.fixture
def seed() -> int:
    """The seed of this test's dice, printed with its failure; ``PILLARBOX_SEED`` replays it."""
    chosen = int(os.environ.get("PILLARBOX_SEED") or secrets.randbits(32))
    print(f"seed {chosen}: replay with PILLARBOX_SEED={chosen}")
    return chosen


@pytest.fixture
def rng(seed: int) -> random.Random:
    """Dice that can be replayed, see ``seed``."""
    return random.Random(seed)


@pytest.fixture
def python_processes(tmp_path: Path) -> Iterator[PythonProcesses]:
    """Starts ``python -m module`` workers that a test may kill, freeze and end; none of them outlives the test."""
    processes = PythonProcesses(tmp_path)
    yield processes
    processes.end_all()
