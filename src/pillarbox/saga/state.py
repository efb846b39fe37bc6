"""The state of a saga as text, and back; older versions are made current."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any, cast

from pillarbox.errors import DecodeError, InvalidMessageError
from pillarbox.errors.reading import text_of
from pillarbox.message import Limits, Message, Registry, message_type_of
from pillarbox.saga.journal import Arrived
from pillarbox.saga.resolve import Definition
from pillarbox.serialization import Codec, upcast
from pillarbox.serialization.envelope import media_type


class StateCodec:
    """Turns states into texts and back, with the codec of the box."""

    def __init__(self, codec: Codec, limits: Limits, registry: Registry | None = None) -> None:
        """Use ``codec``; states may be as large as bodies of messages. Replies are upcast by ``registry``."""
        self._codec = codec
        self._limits = limits
        self._registry = registry
        self._is_text = codec.content_type().endswith("json")

    @property
    def content_type(self) -> str:
        """The media type of the states."""
        return self._codec.content_type()

    def prepare(self, kind: type[object]) -> None:
        """Do once what every state of ``kind`` needs.

        Raises:
            ConfigurationError: a field has a type that cannot be carried.
        """
        self._codec.prepare(kind)

    def text_of(self, state: object) -> str:
        """Return ``state`` as text.

        Raises:
            InvalidMessageError: a value cannot be carried, or it is too large.
        """
        kind = type(state).__qualname__
        try:
            body = self._codec.encode(state)
        except InvalidMessageError as error:
            raise InvalidMessageError(message_type=kind, reason=error.reason, is_state=True) from error
        if len(body) > self._limits.max_body_bytes:
            reason = f"it is {len(body)} bytes long, at most {self._limits.max_body_bytes} are allowed"
            raise InvalidMessageError(message_type=kind, reason=reason, is_state=True)
        return self.body_text(body)

    def body_text(self, body: bytes) -> str:
        """Return an encoded body as text."""
        return body.decode() if self._is_text else b64encode(body).decode()

    def unread(self, message: Message) -> str:
        """Return the body of a message whose class is not known here as text, for whoever knows it.

        Raises:
            DecodeError: it is in another format, or malformed.
        """
        expected = self._codec.content_type()
        if media_type(message.content_type) != expected:
            reason = f"it is {message.content_type[:100]!r}, this service reads {expected!r}"
            raise DecodeError(message_type=message.type, reason=reason)
        self._codec.decode_untyped(message.body)
        return self.body_text(message.body)

    def read(self, text: str, kind: type[Any]) -> Any:
        """Return what ``text`` holds as ``kind``.

        Raises:
            DecodeError: it does not fit.
        """
        return self._codec.decode(self._bytes(text), kind)

    def read_reply(self, reply: Arrived, kind: type[Any]) -> Any:
        """Return a reply, which perhaps another release has noted, as ``kind``.

        Raises:
            DecodeError: it does not fit, or an upcaster failed.
        """
        current, registry = message_type_of(kind).version, self._registry
        if reply.version >= current or registry is None or registry.upcaster(reply.type, reply.version) is None:
            return self.read(reply.body, kind)
        builtins = self._codec.decode_untyped(self._bytes(reply.body))
        body = upcast(builtins, registry=registry, name=reply.type, from_version=reply.version, to_version=current)
        return self._codec.convert(body, kind)

    def read_state(self, text: str, definition: Definition, version: int) -> object:
        """Return the state that was written under ``version`` as ``definition`` has it now.

        Raises:
            DecodeError: it does not fit, or an upcaster failed.
        """
        if version == definition.version:
            return self.read(text, definition.state)
        builtins = cast("dict[str, Any]", self._codec.decode_untyped(self._bytes(text)))
        for older in range(version, definition.version):
            try:
                builtins = definition.upcasters[older](builtins)
            except Exception as error:
                reason = f"the upcaster from version {older} failed: {type(error).__qualname__}: {text_of(error)}"
                raise DecodeError(message_type=definition.saga, reason=reason) from error
        return self._codec.convert(builtins, definition.state)

    def merged(
        self, now: str, before: str, after: str, *, kind: type[object], taken: frozenset[str]
    ) -> tuple[str, tuple[str, ...]]:
        """Return the state ``now`` with what changed from ``before`` to ``after``, and the fields that changed.

        Args:
            now: the state to change.
            before: what a parallel step was given.
            after: what it left.
            kind: the class of the state.
            taken: the fields that other steps beside it have changed.

        Raises:
            InvalidMessageError: it changed one of them too.
        """
        # as it is written here and now: else sets in another order, and fields that are new, would seem to have changed
        old, new = self._fields(self.text_of(self.read(before, kind))), self._fields(after)
        changed = {name: value for name, value in new.items() if name not in old or old[name] != value}
        left_out = old.keys() - new.keys()  # as a Struct does that omits what is as it was declared
        names = changed.keys() | left_out
        if both := sorted(taken & names):
            reason = f"two parallel steps change {', '.join(both)}; let one of them, or run them one after the other"
            raise InvalidMessageError(message_type=kind.__qualname__, reason=reason, is_state=True)
        if not names:
            return now, ()
        kept = {name: value for name, value in self._fields(now).items() if name not in left_out}
        both_parts = self._codec.convert({**kept, **changed}, kind)
        return self.text_of(both_parts), tuple(sorted(names))

    def _fields(self, text: str) -> dict[str, Any]:
        return cast("dict[str, Any]", self._codec.decode_untyped(self._bytes(text)))

    def _bytes(self, text: str) -> bytes:
        return text.encode() if self._is_text else b64decode(text)
