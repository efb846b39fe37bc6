"""Changing the body of a dead letter: the patch, the difference, and the port where the earlier bodies are kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, cast

import msgspec

from pillarbox.errors import DecodeError
from pillarbox.message import Message
from pillarbox.transaction import Program

_MISSING = object()


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One place of a body that an edit has changed.

    Attributes:
        path: the names and numbers that lead there, as in ``/lines/0/price``; empty for the whole body.
        before: what stood there, as JSON; ``None`` where there was nothing.
        after: what stands there now, as JSON; ``None`` where there is nothing.
    """

    path: str
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """An edit of a letter's body.

    Attributes:
        before: the body that it changed; of the first edit it is the body as it was delivered.
        changes: what it changed; empty where a body is no JSON.
    """

    id: int
    letter_id: int
    before: bytes
    changes: tuple[Change, ...]
    by: str
    reason: str
    at: datetime


class DeadLetterEdits(Protocol):
    """The bodies of letters and what became of them; the delivered ones are kept as long as their letters.

    Every implementation must pass ``pillarbox.testing.contracts.DeadLetterEditsContract``.
    """

    @abstractmethod
    def change(
        self, letter_id: int, *, before: bytes, after: bytes, changes: Sequence[Change], by: str, reason: str
    ) -> Program[bool]:
        """Give a dead letter another body and keep the earlier one.

        Returns:
            Whether it was dead and had the body ``before``; else nothing is changed.
        """

    @abstractmethod
    def edits(self, letter_id: int) -> Program[Sequence[Edit]]:
        """Return the edits of a letter, oldest first."""


def patched(message: Message, patch: Mapping[str, object]) -> bytes:
    """Return the body of ``message`` with ``patch`` merged in: a name with ``None`` is taken away.

    Source: RFC 7396, *JSON Merge Patch*.

    Raises:
        DecodeError: the body is no JSON.
    """
    try:
        body: object = msgspec.json.decode(message.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        reason = "it is no JSON that a patch could be merged into; give a whole body"
        raise DecodeError(message_type=message.type, reason=reason) from None
    return msgspec.json.encode(_merged(body, patch))


def differences(before: bytes, after: bytes) -> tuple[Change, ...]:
    """Return where two bodies differ; nothing where one of them is no JSON."""
    try:
        old, new = msgspec.json.decode(before), msgspec.json.decode(after)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ()
    return tuple(_differences(old, new, ""))


def _merged(target: object, patch: object) -> object:
    if not isinstance(patch, Mapping):
        return patch
    merged: dict[str, object] = dict(cast("dict[str, object]", target)) if isinstance(target, dict) else {}
    for name, value in cast("Mapping[str, object]", patch).items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _differences(old: Any, new: Any, path: str) -> Iterator[Change]:  # Any: decoded JSON
    olds, news = _parts(old), _parts(new)
    if olds is not None and news is not None and type(old) is type(new):
        for name in [*olds, *(name for name in news if name not in olds)]:
            step = name.replace("~", "~0").replace("/", "~1")
            yield from _differences(olds.get(name, _MISSING), news.get(name, _MISSING), f"{path}/{step}")
    elif type(old) is not type(new) or old != new:
        yield Change(path=path, before=_json(old), after=_json(new))


def _parts(value: object) -> dict[str, Any] | None:
    """Return the parts of an object or an array by their names; ``None`` for anything else."""
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    if isinstance(value, list):
        return {str(place): part for place, part in enumerate(cast("list[object]", value))}
    return None


def _json(value: object) -> str | None:
    return None if value is _MISSING else msgspec.json.encode(value).decode()
