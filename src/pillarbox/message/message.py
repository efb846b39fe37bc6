"""The message: an opaque body and what must be known to carry it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from pillarbox.errors import DecodeError
from pillarbox.message import headers as names
from pillarbox.message.causes import Cause, unpack_causes


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What travels: the body is moved as it is, only the envelope is read on the way.

    A struct, since one is made for every message that passes; ``msgspec.structs.replace`` makes a changed copy.
    The properties read well-known headers. A header that a foreign producer filled with something unreadable
    raises ``DecodeError``, so that the message ends among the dead letters and not in silence.

    Attributes:
        id: Identifies the message in every inbox; it stays the same over redelivery, retry and replay.
        type: The logical name, as in ``order.placed``; not a Python path.
        destination: ``topic:<name>`` or ``queue:<name>``.
        key: Messages of one key keep their order; ``None`` where order does not matter.
        content_type: The media type of the body.
        headers: Names in lower case. Not to be changed once the message is made.
        body: The encoded payload.

    Source: EIP, *Message*; attribute names of CloudEvents 1.0.
    """

    id: str
    type: str
    destination: str
    key: str | None
    content_type: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def source(self) -> str | None:
        """The service that published it; ``None`` where a foreign producer left it out."""
        return self.headers.get(names.SOURCE)

    @property
    def time(self) -> datetime | None:
        """When it was published, aware; ``None`` where a foreign producer left it out."""
        text = self.headers.get(names.TIME)
        if text is None:
            return None
        try:
            instant = datetime.fromisoformat(text)
        except ValueError as error:
            raise self._unreadable(names.TIME, "an RFC 3339 instant") from error
        if instant.utcoffset() is None:
            raise self._unreadable(names.TIME, "an RFC 3339 instant with an offset")
        return instant

    @property
    def version(self) -> int:
        """The version of the schema of the body; 1 where none is named."""
        return self._number(names.SCHEMA_VERSION, least=1)

    @property
    def correlation_id(self) -> str:
        """What all messages of one process share; a message that names none starts its own."""
        return self.headers.get(names.CORRELATION_ID) or self.id

    @property
    def causation_id(self) -> str | None:
        """The id of the message whose handling published this one."""
        return self.headers.get(names.CAUSATION_ID)

    @property
    def causes(self) -> tuple[Cause, ...]:
        """The messages that come before it: the one whose handling published it, and others that were named."""
        text = self.headers.get(names.CAUSES)
        if text is None:
            return ()
        try:
            return unpack_causes(text)
        except ValueError as error:
            raise self._unreadable(names.CAUSES, "a list of id, type and destination") from error

    @property
    def hop(self) -> int:
        """How many messages stand between this one and the first of its process."""
        return self._number(names.HOP, least=0)

    @property
    def reply_to(self) -> str | None:
        """The destination that waits for the answer. Source: EIP, *Return Address*."""
        return self.headers.get(names.REPLY_TO)

    def _number(self, header: str, *, least: int) -> int:
        text = self.headers.get(header)
        if text is None:
            return least
        # Nine digits: more is no counter, and int() of a very long text costs quadratic time.
        if text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= least:
            return int(text)
        raise self._unreadable(header, f"a whole number of at least {least}")

    def _unreadable(self, header: str, expected: str) -> DecodeError:
        return DecodeError(message_type=self.type, reason=f"its header {header!r} does not hold {expected}")
