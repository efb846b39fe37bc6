"""What may name a message type, a channel, a service or a consumer, and what may be a key.

Names are an allow-list: no wildcard, space, slash or control character of any broker gets through, in no position.
Keys are data and may be any text that every store and broker carries unchanged.
"""

from __future__ import annotations

import re
from typing import Final, Literal, TypeAlias

from pillarbox.errors import ConfigurationError, InvalidMessageError
from pillarbox.message.limits import Limits

MAX_NAME_LENGTH: Final = 200
MAX_FULL_NAME_LENGTH: Final = 180
"""Of a service and what is its own; a word that says what it is, or a version, has room beside it."""
MAX_MESSAGE_ID_BYTES: Final = 200
MAX_CONTENT_TYPE_LENGTH: Final = 100

ChannelKind: TypeAlias = Literal["topic", "queue"]

# Segments between dots are not empty: NATS refuses subjects such as `a..b` and `a.`.
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*(?:\.[a-z0-9_-]+)*")
_NOT_IN_IDS: Final = re.compile("[\x00-\x20\x7f-\xa0\ud800-\udfff]")
_DEFAULT_LIMITS: Final = Limits()


def is_name(text: object) -> bool:
    """Tell whether ``text`` may name a message type, a channel, a service or a consumer."""
    return isinstance(text, str) and len(text) <= MAX_NAME_LENGTH and _NAME.fullmatch(text) is not None


def check_name(text: str, *, what: str) -> str:
    """Return ``text`` if it is a valid name.

    Args:
        text: The name that a programmer chose.
        what: What it names, for the error: ``"queue"``.

    Raises:
        ConfigurationError: It is empty, too long, or has characters outside the allow-list.
    """
    if is_name(text):
        return text
    msg = (
        f"{what} {text!r:.{MAX_NAME_LENGTH}} is not a valid name; use at most {MAX_NAME_LENGTH} characters of a-z 0-9 "
        "_ - in segments joined by single dots, starting with a letter or digit"
    )
    raise ConfigurationError(msg)


def full_name(service: str, name: str, *, what: str) -> str:
    """Return ``<service>/<name>``.

    Raises:
        ConfigurationError: no store could hold it.
    """
    full = f"{service}/{name}"
    if len(full) > MAX_FULL_NAME_LENGTH:
        raise ConfigurationError(
            f"{what} {full!r} has a name of {len(full)} characters; together with its service's it has at most "
            f"{MAX_FULL_NAME_LENGTH}"
        )
    return full


def topic_of(name: str) -> str:
    """Return the topic that a message type belongs to: the part before its first dot."""
    return name.partition(".")[0]


def topic_destination(name: str) -> str:
    """Return the destination of the topic ``name``; raise ``ConfigurationError`` for an invalid one."""
    return f"topic:{_check_channel(name, what='topic')}"


def queue_destination(name: str) -> str:
    """Return the destination of the queue ``name``; raise ``ConfigurationError`` for an invalid one."""
    return f"queue:{_check_channel(name, what='queue')}"


def parse_destination(destination: str) -> tuple[ChannelKind, str]:
    """Split ``topic:order`` into its kind and name.

    A return address that came from outside passes through here too, so it cannot name more than a channel.

    Raises:
        ConfigurationError: It is no destination, or its name is not valid.
    """
    kind, _, name = destination.partition(":")
    if kind == "topic":
        return "topic", _check_channel(name, what="topic")
    if kind == "queue":
        return "queue", _check_channel(name, what="queue")
    msg = f"{destination[:MAX_NAME_LENGTH]!r} is not a destination; write 'topic:<name>' or 'queue:<name>'"
    raise ConfigurationError(msg)


def _check_channel(name: str, *, what: Literal["topic", "queue"]) -> str:
    """Return ``name`` if every store can hold the destination that it makes.

    Raises:
        ConfigurationError: It is no valid name, or too long beside the word for what it names.
    """
    longest = MAX_NAME_LENGTH - len(what) - 1
    if check_name(name, what=what) and len(name) > longest:
        raise ConfigurationError(
            f"{what} {name!r} is not a valid name; that of a {what} has at most {longest} characters"
        )
    return name


def check_key(key: str, *, message_type: str, limits: Limits = _DEFAULT_LIMITS) -> str:
    """Return ``key`` if every store and broker can carry it unchanged.

    Raises:
        InvalidMessageError: It is empty, too long, or holds NUL or a lone surrogate.
    """
    reason = _fault_in_key(key, limits.max_key_bytes)
    if reason is None:
        return key
    raise InvalidMessageError(message_type=message_type, reason=reason)


def check_message_id(message_id: str, *, message_type: str) -> str:
    """Return ``message_id`` if an inbox can hold it.

    Raises:
        InvalidMessageError: It is empty, too long, or holds spaces, control characters or lone surrogates. An empty
            id would make all messages duplicates of one another.
    """
    if not message_id:
        raise InvalidMessageError(message_type=message_type, reason="its id is empty")
    if _NOT_IN_IDS.search(message_id) is not None:
        reason = "its id holds a space, a control character or a lone surrogate"
        raise InvalidMessageError(message_type=message_type, reason=reason)
    if len(message_id.encode()) > MAX_MESSAGE_ID_BYTES:
        reason = f"its id is longer than {MAX_MESSAGE_ID_BYTES} bytes"
        raise InvalidMessageError(message_type=message_type, reason=reason)
    return message_id


def _fault_in_key(key: object, max_key_bytes: int) -> str | None:
    if not isinstance(key, str):
        return f"its key is of type {type(key).__qualname__}; pass a str"
    if not key:
        return "its key is empty; leave the key out where order does not matter"
    if "\0" in key:
        return "its key holds a NUL character"
    try:
        size = len(key) if key.isascii() else len(key.encode())
    except UnicodeEncodeError:
        return "its key holds a lone surrogate, which is no text"
    if size > max_key_bytes:
        return f"its key is {size} bytes long, at most {max_key_bytes} are allowed"
    return None
