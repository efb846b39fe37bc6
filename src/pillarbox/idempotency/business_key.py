"""Business keys: what tells that two messages with different ids mean the same fact.

The inbox keeps a business key as one more row beside the message's id. The row's name holds a space, which no message
id may, so that neither can be taken for the other.
"""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from typing import Final, cast
from uuid import UUID

ROW_PREFIX: Final = "dedupe: "


def row_of(message_type: str, value: object) -> str:
    """Return the name of the inbox row that stands for the business key ``value`` of messages of one type.

    Raises:
        ValueError: the value is ``None`` or empty, or of a type whose text could differ between processes.
    """
    text = f"[{json.dumps(message_type)},{_canonical(value)}]"
    return ROW_PREFIX + sha256(text.encode()).hexdigest()


def _canonical(value: object) -> str:  # one line for each type
    """Return one text for each value, the same in every process; what is not equal has different texts."""
    raw: object = value.value if isinstance(value, Enum) else value
    if raw is None:
        raise ValueError("it is None")
    if isinstance(raw, (bool, int)):
        return json.dumps(raw if isinstance(raw, bool) else int(raw))
    if isinstance(raw, str):
        return json.dumps(_filled(str(raw)))
    if isinstance(raw, UUID):
        return json.dumps(str(raw))  # another service may carry it as text
    if isinstance(raw, Decimal) and raw.is_finite():
        return json.dumps({"decimal": _plain(raw)})
    if isinstance(raw, datetime):
        return json.dumps({"instant": _instant(raw)})
    if isinstance(raw, date):
        return json.dumps({"date": raw.isoformat()})
    if isinstance(raw, bytes):
        return json.dumps({"bytes": _filled(raw.hex())})
    if isinstance(raw, (tuple, list)):
        parts = cast("tuple[object, ...]", raw)
        return f"[{_filled(','.join(map(_canonical, parts)))}]"
    raise ValueError(f"it is of type {type(value).__qualname__}; use texts, whole numbers, UUIDs, or tuples of them")


def _filled(text: str) -> str:
    if not text:
        raise ValueError("it is empty")
    return text


def _plain(number: Decimal) -> str:
    """Return the digits of ``number``, all of them; 1.50 and 1.5 are one."""
    text = f"{number:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _instant(moment: datetime) -> str:
    offset = moment.utcoffset()
    if offset is None:
        raise ValueError("it is an instant without a time zone")
    return (moment.replace(tzinfo=None) - offset).isoformat()
