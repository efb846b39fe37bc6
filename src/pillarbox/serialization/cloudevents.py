"""CloudEvents 1.0: messages in the form that other tools read, structured and binary.

The destination is no attribute of CloudEvents: whoever receives knows the channel it came from, and says so.
Source: https://github.com/cloudevents/spec, version 1.0.2, with its JSON format and its Kafka binding.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from pillarbox.errors import DecodeError, InvalidMessageError
from pillarbox.message import headers as names
from pillarbox.message.message import Message
from pillarbox.message.names import check_key, check_message_id
from pillarbox.serialization.envelope import media_type
from pillarbox.serialization.faults import find_fault

if TYPE_CHECKING:
    from collections.abc import Mapping

SPEC_VERSION: Final = "1.0"
BINARY_PREFIX: Final = "ce_"
USER_HEADERS: Final = "pillarboxheaders"
"""The extension that holds, as a JSON object, the user's headers whose names CloudEvents does not admit."""

_EXTENSION_NAME: Final = re.compile(r"[a-z0-9]{1,20}")
_REQUIRED: Final = ("id", "source", "type")
_CORE: Final = frozenset({"specversion", "id", "type", "subject", "datacontenttype", "data", "data_base64"})


def to_structured(message: Message) -> dict[str, object]:
    """Return ``message`` as a CloudEvent in the JSON format; a body that is not JSON goes into ``data_base64``.

    Raises:
        InvalidMessageError: It names no source, which CloudEvents demands.
    """
    event: dict[str, object] = {**_attributes(message), "datacontenttype": message.content_type}
    others: dict[str, str] = {}
    for name, value in message.headers.items():
        fits = _EXTENSION_NAME.fullmatch(name) is not None and name not in _CORE | {USER_HEADERS}
        (event if fits else others)[name] = value
    if others:
        event[USER_HEADERS] = msgspec.json.encode(others).decode()
    if _is_json(message.content_type):
        try:
            event["data"] = msgspec.json.decode(message.body)
        except (ValueError, RecursionError):
            pass  # its label is wrong, or its numbers do not fit: its bytes travel all the same
        else:
            return event
    event["data_base64"] = base64.b64encode(message.body).decode()
    return event


def from_structured(event: Mapping[str, object], *, destination: str) -> Message:
    """Return the message that a CloudEvent in the JSON format describes.

    Args:
        event: The decoded event.
        destination: The channel that it came from.

    Raises:
        DecodeError: It is no CloudEvent 1.0, or lacks an attribute that it must have.
    """
    attributes = {
        name: _text(name, value)
        for name, value in event.items()
        if name not in {"data", "data_base64"} and value is not None
    }
    content_type = attributes.get("datacontenttype", "application/json")
    headers = _user_headers(attributes.pop(USER_HEADERS, None))
    return _message(attributes, headers, content_type=content_type, body=_data(event), destination=destination)


def to_binary(message: Message, *, prefix: str = BINARY_PREFIX) -> dict[str, str]:
    """Return the transport headers of a CloudEvent in binary mode; the body travels beside them as it is.

    Attributes bear ``prefix``, the user's own headers travel under their own names.

    Raises:
        InvalidMessageError: It names no source, which CloudEvents demands.
    """
    headers = {f"{prefix}{name}": value for name, value in _attributes(message).items()}
    headers["content-type"] = message.content_type
    for name, value in message.headers.items():
        headers[f"{prefix}{name}" if name in names.OWN else name] = value
    return headers


def from_binary(
    headers: Mapping[str, str], body: bytes, *, destination: str, prefixes: tuple[str, ...] = (BINARY_PREFIX,)
) -> Message:
    """Return the message that a CloudEvent in binary mode describes.

    Args:
        headers: The transport headers; names of attributes are read in either case.
        body: The body, kept as it is.
        destination: The channel that it came from.
        prefixes: What the names of attributes may begin with, in small letters.

    Raises:
        DecodeError: It is no CloudEvent 1.0, or lacks an attribute that it must have.
    """
    attributes: dict[str, str] = {}
    plain: dict[str, str] = {}
    content_type = "application/octet-stream"
    known = _known(prefixes)
    for name, value in headers.items():
        attribute = known.get(name) or _attribute(name.lower(), prefixes)
        if attribute is not None:
            attributes[attribute] = value
        elif name.lower() == "content-type":
            content_type = value
        else:
            plain[name] = value
    return _message(attributes, plain, content_type=content_type, body=body, destination=destination)


@lru_cache(maxsize=8)
def _known(prefixes: tuple[str, ...]) -> Mapping[str, str]:
    """Return the attributes that we write ourselves by the names of their headers: most are found there soonest."""
    return {f"{prefix}{name}": name for prefix in prefixes for name in _CORE | names.OWN}


def _attribute(name: str, prefixes: tuple[str, ...]) -> str | None:
    return next((name[len(prefix) :] for prefix in prefixes if name.startswith(prefix)), None)


def _attributes(message: Message) -> dict[str, str]:
    if not message.headers.get(names.SOURCE):
        raise InvalidMessageError(message_type=message.type, reason="CloudEvents demand a source, it names none")
    attributes = {"specversion": SPEC_VERSION, "id": message.id, "type": message.type}
    if message.key is not None:
        attributes["subject"] = message.key
    return attributes


def _message(
    attributes: Mapping[str, str], headers: Mapping[str, str], *, content_type: str, body: bytes, destination: str
) -> Message:
    message_type = attributes.get("type")
    if attributes.get("specversion") != SPEC_VERSION:
        reason = f"it is no CloudEvent {SPEC_VERSION}: its specversion is {attributes.get('specversion')!r}"
        raise DecodeError(message_type=message_type, reason=reason)
    for name in _REQUIRED:
        if not attributes.get(name):
            raise DecodeError(
                message_type=message_type, reason=f"it is no CloudEvent: its attribute {name!r} is missing"
            )
    key = attributes.get("subject") or None
    try:
        check_message_id(attributes["id"], message_type=attributes["type"])
        if key is not None:
            check_key(key, message_type=attributes["type"])
    except InvalidMessageError as error:
        raise DecodeError(message_type=message_type, reason=error.reason) from error
    extensions = {name: value for name, value in attributes.items() if name not in _CORE}
    return Message(
        id=attributes["id"],
        type=attributes["type"],
        destination=destination,
        key=key,
        content_type=content_type,
        headers={**headers, **extensions},
        body=body,
    )


def _data(event: Mapping[str, object]) -> bytes:
    encoded = event.get("data_base64")
    if isinstance(encoded, str):
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise DecodeError(reason="its data_base64 is not base64") from error
    if "data" not in event:
        return b""
    data = event["data"]
    content_type = event.get("datacontenttype")
    try:
        if isinstance(data, str) and isinstance(content_type, str) and not _is_json(content_type):
            return data.encode()
        return msgspec.json.encode(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise DecodeError(reason="its data is no JSON") from error


def _user_headers(text: str | None) -> dict[str, str]:
    if text is None:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except (ValueError, RecursionError) as error:
        raise DecodeError(reason=f"its extension {USER_HEADERS!r} is no JSON object of texts") from error


def _text(name: str, value: object) -> str:
    if isinstance(value, str) and find_fault(value) is None:
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise DecodeError(reason=f"its attribute {name!r} is no text, whole number or boolean")


def _is_json(content_type: str) -> bool:
    kind = media_type(content_type)
    return kind == "application/json" or kind.endswith("+json")
