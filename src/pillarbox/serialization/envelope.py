"""From an object to a message and back: the one place where everything is checked before a row is written."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, NotRequired, TypedDict, Unpack

from pillarbox.errors import DecodeError, InvalidMessageError
from pillarbox.message import headers as names
from pillarbox.message.causes import pack_causes
from pillarbox.message.declare import key_of
from pillarbox.message.limits import Limits
from pillarbox.message.message import Message
from pillarbox.message.names import check_key, check_message_id
from pillarbox.serialization.upcasting import reading_type, upcast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from pillarbox.message.causes import Cause
    from pillarbox.message.declare import MessageType
    from pillarbox.message.registry import Registry
    from pillarbox.serialization.codec import Codec

_DEFAULT_LIMITS = Limits()


class EnvelopeFields(TypedDict):
    """What a message carries beside its body.

    Attributes:
        id: Its identity; see ``new_message_id``.
        source: The service that publishes it.
        time: When it is published, aware.
        key: Overrides the key that its class declares.
        headers: The user's own.
        correlation_id: Shared by all messages of one process; the message's own id unless given.
        causation_id: The message whose handling publishes this one.
        causes: The messages that come before it.
        hop: How many messages stand between it and the first of its process.
        reply_to: The destination that waits for the answer.
        traceparent: W3C trace context.
        tracestate: W3C trace context.
    """

    id: str
    source: str
    time: datetime
    key: NotRequired[str | None]
    headers: NotRequired[Mapping[str, str] | None]
    correlation_id: NotRequired[str | None]
    causation_id: NotRequired[str | None]
    causes: NotRequired[Sequence[Cause]]
    hop: NotRequired[int]
    reply_to: NotRequired[str | None]
    traceparent: NotRequired[str | None]
    tracestate: NotRequired[str | None]


def encode_message(
    obj: object,
    *,
    message_type: MessageType,
    codec: Codec,
    limits: Limits = _DEFAULT_LIMITS,
    **fields: Unpack[EnvelopeFields],
) -> Message:
    """Return the message that carries ``obj``, with everything about it checked.

    Args:
        obj: An instance of the class that ``message_type`` describes.
        message_type: See ``message_type_of``.
        codec: Encodes the body.
        limits: Sizes that are refused.
        fields: The envelope; ``id``, ``source`` and ``time`` are required.

    Raises:
        InvalidMessageError: A value, name, key, header or size would be lost, changed or refused on the way.
        MissingKeyError: The field that should hold the key is ``None``.
        ConfigurationError: A field of the class has a type that the codec cannot carry.
    """
    name = message_type.name
    if type(obj) is not message_type.python_type:
        reason = f"a {type(obj).__qualname__} was given, it is declared for {message_type.python_type.__qualname__}"
        raise InvalidMessageError(message_type=name, reason=reason)
    message_id = check_message_id(fields["id"], message_type=name)
    key = fields.get("key")
    if key is None:
        key = key_of(obj)
    if key is not None:
        check_key(key, message_type=name, limits=limits)
    headers = _headers(message_type, fields, limits)
    names.check_header_values(headers, message_type=name, limits=limits)
    body = codec.encode(obj)
    if len(body) > limits.max_body_bytes:
        reason = (
            f"its body is {len(body)} bytes long, at most {limits.max_body_bytes} are allowed; "
            "store large data elsewhere and send a reference to it"
        )
        raise InvalidMessageError(message_type=name, reason=reason)
    return Message(
        id=message_id,
        type=name,
        destination=message_type.destination,
        key=key,
        content_type=codec.content_type(),
        headers=headers,
        body=body,
    )


def decode_message(message: Message, registry: Registry, codec: Codec) -> object:
    """Return the object that ``message`` carries, of the newest class registered for its type.

    A body of an older version is upcast first. One of a newer version than any that is registered is read as the
    newest known, whose fields it still has if its producer kept to compatible changes.

    Raises:
        UnknownMessageTypeError: No class is registered for its type.
        DecodeError: The body is in another format, malformed, does not fit, or is of a version that cannot be read.
        ConfigurationError: A field of the class has a type that the codec cannot carry.
    """
    expected = codec.content_type()
    if message.content_type != expected and media_type(message.content_type) != expected:
        reason = f"it is {message.content_type[:100]!r}, this service reads {expected!r}"
        raise DecodeError(message_type=message.type, reason=reason)
    version = message.version
    target = reading_type(registry, message.type, version)
    if version >= target.version:
        return codec.decode(message.body, target.python_type)
    builtins = upcast(
        codec.decode_untyped(message.body),
        registry=registry,
        name=message.type,
        from_version=version,
        to_version=target.version,
    )
    return codec.convert(builtins, target.python_type)


def media_type(content_type: str) -> str:
    """Return ``content_type`` without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def _headers(message_type: MessageType, fields: EnvelopeFields, limits: Limits) -> dict[str, str]:
    """Return the library's headers and the user's; those that are not given are left out."""
    name, hop, time = message_type.name, fields.get("hop", 0), fields["time"]
    if not fields["source"]:
        raise InvalidMessageError(message_type=name, reason="its source is empty; name the service that publishes it")
    if time.utcoffset() is None:
        raise InvalidMessageError(message_type=name, reason="its time is naive; give it a time zone")
    if isinstance(hop, bool) or hop < 0:
        raise InvalidMessageError(message_type=name, reason=f"its hop is {hop!r}, it counts from 0")
    headers = {
        names.SOURCE: fields["source"],
        names.TIME: time.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z",
        names.SCHEMA_VERSION: str(message_type.version),
        names.CORRELATION_ID: fields.get("correlation_id") or fields["id"],
        names.HOP: str(hop),
    }
    optional = {
        names.CAUSATION_ID: fields.get("causation_id"),
        names.REPLY_TO: fields.get("reply_to"),
        names.TRACEPARENT: fields.get("traceparent"),
        names.TRACESTATE: fields.get("tracestate"),
    }
    headers.update((header, value) for header, value in optional.items() if value is not None)
    if causes := fields.get("causes"):
        headers[names.CAUSES] = _packed(causes, message_type=name, limits=limits)
    users = fields.get("headers")
    if users:
        names.check_user_headers(users, message_type=name)
        headers.update(users)
    return headers


def _packed(causes: Sequence[Cause], *, message_type: str, limits: Limits) -> str:
    """Return the header that names ``causes``, each once."""
    named = tuple(dict.fromkeys(causes))
    if len(named) > limits.max_causes:
        reason = (
            f"it names {len(named)} causes, at most {limits.max_causes} are allowed; name the direct ones, "
            "since what comes before them is before it, too"
        )
        raise InvalidMessageError(message_type=message_type, reason=reason)
    for cause in named:
        check_message_id(cause.id, message_type=message_type)
    try:
        return pack_causes(named)
    except (TypeError, ValueError) as error:
        reason = "a cause is named by its id, its type and its destination, three texts"
        raise InvalidMessageError(message_type=message_type, reason=reason) from error
