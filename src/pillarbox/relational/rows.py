"""Messages to columns and back, the same for every table that holds one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from sqlalchemy import Column, Table

from pillarbox.message import Message
from pillarbox.outbox import OutboxRecord
from pillarbox.transaction import Row

_decode_headers = msgspec.json.Decoder(dict[str, str]).decode

RECORD_COLUMNS = (
    "id",
    "aggregate_type",
    "aggregate_id",
    "event_type",
    "payload",
    "content_type",
    "headers",
    "destination",
    "message_key",
    "slot",
    "key_sequence",
    "created_at",
)
MESSAGE_COLUMNS = ("message_id", "type", "channel", "message_key", "content_type", "headers", "body")
_RECORD_AS_MESSAGE = ("id", "event_type", "destination", "message_key", "content_type", "headers", "payload")


def columns(table: Table, names: Iterable[str]) -> tuple[Column[object], ...]:
    """Return the named columns of ``table``, in that order."""
    return tuple(table.c[name] for name in names)


def record_values(record: OutboxRecord) -> dict[str, object]:
    """Return the values of an outbox row, without those that the database supplies."""
    message = record.message
    return {
        "id": message.id,
        "aggregate_type": message.destination.partition(":")[2],
        "aggregate_id": message.id if message.key is None else message.key,
        "event_type": message.type,
        "payload": message.body,
        "content_type": message.content_type,
        "headers": record.headers_json,
        "destination": message.destination,
        "message_key": message.key,
        "slot": record.slot,
        "key_sequence": record.number,
    }


def message_values(message: Message) -> dict[str, object]:
    """Return the values of the message columns."""
    return {
        "message_id": message.id,
        "type": message.type,
        "channel": message.destination,
        "message_key": message.key,
        "content_type": message.content_type,
        "headers": headers_json(message.headers),
        "body": message.body,
    }


def headers_json(headers: Mapping[str, str]) -> str:
    """Return headers as JSON text."""
    return msgspec.json.encode(headers).decode()


def message_columns(table: Table) -> tuple[Column[object], ...]:
    """Return the columns that ``message_of`` reads, of a table with message columns."""
    return columns(table, MESSAGE_COLUMNS)


def record_message_columns(table: Table) -> tuple[Column[object], ...]:
    """Return the columns that ``message_of`` reads, of a table with record columns."""
    return columns(table, _RECORD_AS_MESSAGE)


def message_of(row: Row) -> Message:
    """Build the message from the seven columns that ``message_columns`` names."""
    identity, kind, destination, key, content_type, headers, body = row
    return Message(
        id=identity,
        type=kind,
        destination=destination,
        key=key,
        content_type=content_type,
        headers=_decode_headers(headers),
        body=body if type(body) is bytes else bytes(body),
    )
