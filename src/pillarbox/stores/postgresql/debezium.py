"""Debezium's outbox event router over our outbox: the connector's configuration, and the SQL that it needs.

Source: Debezium, *Outbox Event Router* and *PostgreSQL connector*. That the real engine delivers every record by it is
tested in ``tests/integration/test_debezium.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.engine import URL

from pillarbox.errors import ConfigurationError
from pillarbox.relational.tables import outbox

PASSWORD = "${env:DEBEZIUM_PASSWORD}"
"""Kafka Connect's EnvVarConfigProvider fills it in; a configuration is no place for a password."""
DEFAULT_NAME = "pillarbox"
_BY_COLUMN = "position"
_HEARTBEAT_MS = 10_000
_PLAIN = re.compile(r"[a-z_][a-z0-9_]{0,62}")
"""Names that need no quotes in SQL, and no escape in a pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DebeziumNames:
    """What the connector's objects are called.

    Attributes:
        connector: the connector, and the prefix of Debezium's own topics.
        slot: the replication slot and the publication.
        schema: where the outbox is.
    """

    connector: str = DEFAULT_NAME
    slot: str = "pillarbox_debezium"
    schema: str = "public"

    def __post_init__(self) -> None:
        """Refuse names that PostgreSQL or Debezium would spell otherwise."""
        for name in (self.connector, self.slot, self.schema):
            if not _PLAIN.fullmatch(name):
                raise ConfigurationError(f"{name!r} will not do here; use at most 63 characters of a-z 0-9 _")


def connector_config(database: URL, names: DebeziumNames) -> Mapping[str, str]:
    """Return the configuration by which Debezium publishes the outbox in ``database``.

    A record's destination becomes the Kafka topic (``topic:order`` is ``topic.order``), its key the key, its body the
    value byte for byte, its id the header ``id``; the other headers are one header, as JSON text. No key stays no key.
    """
    table = f"{names.schema}.{outbox.name}"
    columns = ",".join(f"{table}.{column}" for column in _columns_read())
    return {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "database.hostname": database.host or "localhost",
        "database.port": str(database.port or 5432),
        "database.user": database.username or "",
        "database.password": PASSWORD,
        "database.dbname": database.database or "",
        "topic.prefix": names.connector,
        "plugin.name": "pgoutput",
        "slot.name": names.slot,
        "publication.name": names.slot,
        "publication.autocreate.mode": "disabled",  # only ours is insert-only and goes by the partitioned table's name
        "table.include.list": table,
        "column.include.list": columns,
        "snapshot.mode": "when_needed",
        "snapshot.select.statement.overrides": table,  # a table scan has no order
        f"snapshot.select.statement.overrides.{table}": f"SELECT * FROM {table} ORDER BY {_BY_COLUMN}",
        "binary.handling.mode": "bytes",
        "tombstones.on.delete": "false",
        "extended.headers.enabled": "false",
        "heartbeat.interval.ms": str(_HEARTBEAT_MS),  # lets the slot advance while the outbox is idle
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "io.debezium.converters.BinaryDataConverter",
        "value.converter.delegate.converter.type": "org.apache.kafka.connect.json.JsonConverter",  # of heartbeats
        "value.converter.delegate.converter.type.schemas.enable": "false",
        "header.converter": "org.apache.kafka.connect.storage.StringConverter",
        "transforms": "outbox",
        "predicates": "isOutbox",
        "predicates.isOutbox.type": "org.apache.kafka.connect.transforms.predicates.TopicNameMatches",
        "predicates.isOutbox.pattern": f"{names.connector}\\.{names.schema}\\.{outbox.name}",
        "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
        "transforms.outbox.predicate": "isOutbox",
        "transforms.outbox.table.field.event.id": "id",
        "transforms.outbox.table.field.event.key": "message_key",
        "transforms.outbox.table.field.event.payload": "payload",
        "transforms.outbox.table.expand.json.payload": "false",
        "transforms.outbox.table.op.invalid.behavior": "error",
        "transforms.outbox.table.fields.additional.placement": (
            "event_type:header:type,content_type:header:content-type,headers:header:headers"
        ),
        "transforms.outbox.route.by.field": "destination",
        "transforms.outbox.route.topic.regex": "(topic|queue):(.*)",
        "transforms.outbox.route.topic.replacement": "$1.$2",
    }


def _columns_read() -> tuple[str, ...]:
    return (
        _BY_COLUMN,
        "id",
        "event_type",
        "payload",
        "content_type",
        "headers",
        "destination",
        "message_key",
    )


def preparation_sql(names: DebeziumNames) -> str:
    """Return the SQL that is run once, before the connector is started for the first time.

    Only inserts are published, so that removing rows tells Debezium nothing; all partitions go by the name of the
    outbox. Debezium creates the slot.
    """
    return (
        f"CREATE PUBLICATION {names.slot} FOR TABLE {names.schema}.{outbox.name}\n"
        "    WITH (publish = 'insert', publish_via_partition_root = true);\n"
    )


def purge_sql(names: DebeziumNames, older_than: timedelta) -> str:
    """Return the SQL that removes what was published long ago; to be run now and then, as from cron.

    It removes nothing unless the connector is at work on a slot that has lost no WAL: then each insert either was
    delivered, or is still to come from the WAL, which needs no row.
    """
    microseconds = older_than // timedelta(microseconds=1)
    return (
        f"DELETE FROM {names.schema}.{outbox.name}\n"
        f"    WHERE created_at < extract(epoch FROM clock_timestamp()) * 1000000 - {microseconds}\n"
        f"    AND EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{names.slot}'\n"
        "        AND database = current_database() AND active AND wal_status IN ('reserved', 'extended'));\n"
    )
