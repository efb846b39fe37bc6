"""Headers: the names that the library keeps for itself, and what users may add.

Names are attribute and extension names of CloudEvents 1.0, so that they need no translation on the wire.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, cast

from pillarbox.errors import InvalidMessageError

if TYPE_CHECKING:
    from pillarbox.message.limits import Limits

SOURCE: Final = "source"
TIME: Final = "time"
SCHEMA_VERSION: Final = "schemaversion"
CORRELATION_ID: Final = "correlationid"
CAUSATION_ID: Final = "causationid"
HOP: Final = "hop"
CAUSES: Final = "causes"
REPLY_TO: Final = "replyto"
REPLY_KEY: Final = "replykey"
REPLY_TYPES: Final = "replytypes"
REPLY_TOKEN: Final = "replytoken"
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
ROUTED_BY: Final = "routedby"
TAPPED_BY: Final = "tappedby"
SEQUENCE: Final = "sequence"
SEQUENCE_EPOCH: Final = "sequenceepoch"

OWN: Final = frozenset(
    {
        SOURCE,
        TIME,
        SCHEMA_VERSION,
        CORRELATION_ID,
        CAUSATION_ID,
        CAUSES,
        HOP,
        REPLY_TO,
        REPLY_KEY,
        REPLY_TYPES,
        REPLY_TOKEN,
        TRACEPARENT,
        TRACESTATE,
        ROUTED_BY,
        TAPPED_BY,
        SEQUENCE,
        SEQUENCE_EPOCH,
    }
)
"""Headers that the library writes and reads."""

RESERVED: Final = OWN | {
    "content-type",
    "data",
    "data_base64",
    "datacontenttype",
    "dataschema",
    "id",
    "specversion",
    "subject",
    "type",
}
"""Names that users may not set: ours, and those that CloudEvents gives to the rest of the envelope."""

RESERVED_PREFIXES: Final = ("ce_", "ce-", "pillarbox")
"""Beginnings that users may not choose: the binary form of CloudEvents, and our own."""

_MAX_NAME_LENGTH: Final = 64
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_NOT_IN_VALUES: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_user_headers(headers: Mapping[str, str], *, message_type: str) -> None:
    """Refuse names that brokers could misread or that the library keeps for itself.

    Raises:
        InvalidMessageError: They are no mapping of texts; a name is reserved, or not of a-z 0-9 _ . - with at most 64
            characters.
    """
    if not _is_by_name(headers):
        reason = f"its headers, of type {type(headers).__qualname__}, are no mapping of texts to texts"
        raise InvalidMessageError(message_type=message_type, reason=reason)
    for name in headers:
        if name in RESERVED or name.startswith(RESERVED_PREFIXES):
            reason = f"the header name {name!r} is reserved"
            raise InvalidMessageError(message_type=message_type, reason=reason)
        if _NAME.fullmatch(name) is None:
            reason = (
                f"the header name {name[:64]!r} is not valid; use at most 64 characters of a-z 0-9 _ . -, "
                "starting with a letter or digit"
            )
            raise InvalidMessageError(message_type=message_type, reason=reason)


def check_header_values(headers: Mapping[str, str], *, message_type: str, limits: Limits) -> None:
    """Refuse values that could break out of a header, and headers that are too large; none is stripped or cut.

    Raises:
        InvalidMessageError: A value is no text, holds a control character or a lone surrogate, or a size is exceeded.
    """
    if _are_plainly_small(headers, limits):
        return
    total = 0
    for name, value in headers.items():
        size = _size_of_value(value)
        if size is None:
            reason = f"the value of header {name!r} is not a text without control characters and lone surrogates"
            raise InvalidMessageError(message_type=message_type, reason=reason)
        if size > limits.max_header_value_bytes:
            reason = (
                f"the value of header {name!r} is {size} bytes long, at most {limits.max_header_value_bytes} may be"
            )
            raise InvalidMessageError(message_type=message_type, reason=reason)
        total += len(name) + size
    if total > limits.max_headers_bytes:
        reason = f"its headers take {total} bytes, at most {limits.max_headers_bytes} are allowed"
        raise InvalidMessageError(message_type=message_type, reason=reason)


def may_be_header_value(text: str) -> bool:
    """Tell whether a header could carry ``text``, were it short enough."""
    return _size_of_value(text) is not None


def _is_by_name(headers: object) -> bool:
    return isinstance(headers, Mapping) and all(
        isinstance(name, str) for name in cast("Mapping[object, object]", headers)
    )


def _are_plainly_small(headers: Mapping[str, str], limits: Limits) -> bool:
    """Judge the usual case in one look: short and of printable ASCII."""
    try:
        values = "".join(headers.values())
    except TypeError:
        return False
    size = len(values)
    return (
        values.isascii()
        and values.isprintable()
        and size <= limits.max_header_value_bytes
        and size + _MAX_NAME_LENGTH * len(headers) <= limits.max_headers_bytes
    )


def _size_of_value(value: object) -> int | None:
    """Return the value's size in UTF-8 bytes, ``None`` if it may not travel."""
    if not isinstance(value, str):
        return None
    if value.isascii() and value.isprintable():
        return len(value)
    if _NOT_IN_VALUES.search(value) is not None:
        return None
    return len(value.encode())
