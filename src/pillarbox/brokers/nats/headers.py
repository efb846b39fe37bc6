"""Headers as NATS carries them: CloudEvents in binary mode, values in printable ASCII.

Source: CloudEvents 1.0.2, *NATS protocol binding*, which encodes values as the HTTP binding does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote

from msgspec.structs import replace

from pillarbox.errors import InvalidMessageError
from pillarbox.message import Message
from pillarbox.message.headers import OWN
from pillarbox.serialization import ForeignMessages, arrived, to_binary

PREFIX: Final = "ce-"
MESSAGE_ID: Final = "Nats-Msg-Id"
"""By this header a stream knows what it has already, and stores it once."""
_TO_BE_ENCODED: Final = re.compile(r'[^!-~]|["%]')
_SAFE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_NAME: Final = re.compile("[!-9;-~]+")
_ORDERS: Final = "nats-"
"""What headers begin with that are orders to the server: they were meant for the stream where they came from."""
_LINE: Final = "NATS/1.0"
_ID: Final = f"{PREFIX}id"


def block_of(message: Message) -> bytes:
    """Return the headers of a message as they go over the wire.

    Raises:
        InvalidMessageError: it names no source, which CloudEvents demands, or bears a header of somebody else's whose
            name would mean something else here.
    """
    for name in message.headers.keys() - OWN:
        if _NAME.fullmatch(name) is None or _is_order(name):
            reason = f"NATS cannot carry a header of the name {name[:64]!r}"
            raise InvalidMessageError(message_type=message.type, reason=reason)
    headers = to_binary(message, prefix=PREFIX)
    if _TO_BE_ENCODED.search("".join(headers.values())):
        headers = {name: quote(value, safe=_SAFE) for name, value in headers.items()}
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    return f"{_LINE}\r\n{MESSAGE_ID}: {headers[_ID]}\r\n{''.join(lines)}\r\n".encode("ascii")


def message_from(
    headers: Mapping[str, str] | None,
    body: bytes,
    *,
    channel: str,
    place: str,
    foreign: ForeignMessages | None = None,
) -> Message:
    """Return the message that came with ``headers``; ``place`` names one that nobody can read."""
    decoded = {
        name: unquote(value) if "%" in value else value
        for name, value in (headers or {}).items()
        if foreign is not None or not _is_order(name)
    }
    message = arrived(decoded, body, channel=channel, place=place, prefixes=(PREFIX,), foreign=foreign)
    if foreign is None:
        return message
    return replace(message, headers={name: text for name, text in message.headers.items() if not _is_order(name)})


def headers_from(block: bytes) -> dict[str, str]:
    """Return the headers of a block as a stream stores it: a line of the protocol, then one for each."""
    lines = block.decode("utf-8", "replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _is_order(name: str) -> bool:
    return name[:5].lower() == _ORDERS


def status_of(headers: Mapping[str, str] | None) -> str:
    """Return the status that the server gave instead of a message: ``503`` when nobody took it."""
    return "" if headers is None else headers.get("Status", "")


def reason_of(headers: Mapping[str, str] | None) -> str:
    """Return what the server said of that status."""
    return "" if headers is None else headers.get("Description", "")
