"""A message as conditions see it: its envelope at once, its body when somebody asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pillarbox.errors import DecodeError
from pillarbox.message import Message, Registry, key_of, message_type_of
from pillarbox.message.headers import SCHEMA_VERSION
from pillarbox.serialization import Codec, JsonCodec, decode_message
from pillarbox.serialization.envelope import media_type

EXAMPLE = "example"
"""The id of a message that was made to be explained."""


class Reader:
    """Reads bodies with what one box knows."""

    def __init__(self, registry: Registry, codec: Codec) -> None:
        """Read the types in ``registry`` by ``codec``."""
        self._registry = registry
        self._codec = codec

    def body(self, message: Message) -> object:
        """Return the body as dicts, lists, texts and numbers.

        Raises:
            DecodeError: it is in another format, or malformed.
        """
        if media_type(message.content_type) != self._codec.content_type():
            reason = f"it is {message.content_type[:100]!r}, the rules read {self._codec.content_type()!r}"
            raise DecodeError(message_type=message.type, reason=reason)
        return self._codec.decode_untyped(message.body)

    def payload(self, message: Message) -> object:
        """Return the object that the message carries, as its handler would get it.

        Raises:
            UnknownMessageTypeError: no class is registered for its type.
            DecodeError: the body does not fit.
        """
        return decode_message(message, self._registry, self._codec)

    def view(self, message: object) -> RoutedMessage:
        """Return ``message`` as conditions see it: a message, or an object of a declared class.

        Raises:
            ConfigurationError: it is neither.
        """
        if isinstance(message, RoutedMessage):
            return message
        if isinstance(message, Message):
            return RoutedMessage(message, self)
        declared = message_type_of(type(message))
        made = Message(
            id=EXAMPLE,
            type=declared.name,
            destination=declared.destination,
            key=key_of(message),
            content_type=self._codec.content_type(),
            headers={SCHEMA_VERSION: str(declared.version)},
            body=self._codec.encode(message),
        )
        return RoutedMessage(made, self, payload=message)


def reader_of(*types: type[object]) -> Reader:
    """Return a reader of JSON that knows ``types``; a router outside of any box reads by it."""
    registry = Registry()
    registry.register(*types)
    return Reader(registry, JsonCodec())


_UNREAD = object()


class RoutedMessage:
    """What a condition may look at. It must not change anything it gets here."""

    __slots__ = ("_body", "_payload", "_reader", "message")

    def __init__(self, message: Message, reader: Reader, *, payload: object = _UNREAD) -> None:
        """Read the body of ``message`` by ``reader``, once, when it is asked for."""
        self.message = message
        self._reader = reader
        self._body: object = _UNREAD
        self._payload = payload

    @property
    def id(self) -> str:
        """The id of the message."""
        return self.message.id

    @property
    def type(self) -> str:
        """The logical name of its type, such as ``order.placed``."""
        return self.message.type

    @property
    def version(self) -> int:
        """The version of its schema."""
        return self.message.version

    @property
    def key(self) -> str | None:
        """The key whose order it is part of."""
        return self.message.key

    @property
    def channel(self) -> str:
        """The address it came by, such as ``topic:order``."""
        return self.message.destination

    @property
    def headers(self) -> Mapping[str, str]:
        """All its headers."""
        return self.message.headers

    @property
    def body(self) -> Any:
        """The body as dicts, lists, texts and numbers; its class need not be known."""
        if self._body is _UNREAD:
            self._body = self._reader.body(self.message)
        return self._body

    @property
    def payload(self) -> Any:
        """The object that a handler would get; its class must be known to the box."""
        if self._payload is _UNREAD:
            self._payload = self._reader.payload(self.message)
        return self._payload
