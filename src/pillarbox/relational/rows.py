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


_setters = {name: getattr(Message, name).__set__ for name in Message.__slots__}
_set_id, _set_type, _set_destination = _setters["id"], _setters["type"], _setters["destination"]
_set_key, _set_content_type = _setters["key"], _setters["content_type"]
_set_headers, _set_body = _setters["headers"], _setters["body"]


def message_of(row: Row) -> Message:
    """Build the message from the seven columns that ``message_columns`` names.

    Each message that is read passes here, and the constructor of a frozen dataclass takes three times as long.
    """
    message = Message.__new__(Message)
    identity, kind, destination, key, content_type, headers, body = row
    _set_id(message, identity)
    _set_type(message, kind)
    _set_destination(message, destination)
    _set_key(message, key)
    _set_content_type(message, content_type)
    _set_headers(message, _decode_headers(headers))
    _set_body(message, bytes(body))
    return message
