"""The return address: where the answer to a command is sent, and what it must bring along.

Source: EIP, *Return Address* and *Correlation Identifier*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from pillarbox.message import headers as names
from pillarbox.message.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnAddress:
    """What whoever answers a message needs to know.

    Attributes:
        to: the destination of the answer.
        key: its key.
        types: the logical names of the messages that are answers; others are published as ever.
        token: opaque to whoever answers; the answer carries it back.
    """

    to: str
    key: str
    types: tuple[str, ...]
    token: str

    def headers(self) -> Mapping[str, str]:
        """Return the headers that carry it."""
        return {
            names.REPLY_TO: self.to,
            names.REPLY_KEY: self.key,
            names.REPLY_TYPES: ",".join(self.types),
            names.REPLY_TOKEN: self.token,
        }


def return_address_of(message: Message) -> ReturnAddress | None:
    """Return where the answer to ``message`` goes; ``None`` if nobody waits for one."""
    found = message.headers
    to, key, token = found.get(names.REPLY_TO), found.get(names.REPLY_KEY), found.get(names.REPLY_TOKEN)
    if to is None or key is None or token is None:
        return None
    types = found.get(names.REPLY_TYPES, "").split(",")
    return ReturnAddress(to=to, key=key, types=tuple(name for name in types if name), token=token)


def answering(message: Message, address: ReturnAddress) -> Message:
    """Return ``message`` as the answer that is awaited at ``address``."""
    headers = {**message.headers, names.REPLY_TOKEN: address.token}
    return replace(message, destination=address.to, key=address.key, headers=headers)


def reply_token_of(headers: Mapping[str, str]) -> str | None:
    """Return the token that an answer carries back."""
    return headers.get(names.REPLY_TOKEN)
