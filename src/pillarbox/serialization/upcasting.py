"""Upcasting: bringing the body of an old version up to the newest, one version at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from pillarbox.errors import DecodeError, UnknownMessageTypeError
from pillarbox.message.registry import Upcaster

if TYPE_CHECKING:
    from pillarbox.message.declare import MessageType
    from pillarbox.message.registry import Registry

__all__ = ["Upcaster", "reading_type", "upcast"]


def reading_type(registry: Registry, name: str, version: int) -> MessageType:
    """Return the type as which a body of ``version`` is to be read.

    That is the newest one, which old bodies are upcast to and which newer bodies are read as leniently. Only where no
    upcaster starts at an old version is its own class taken, if it is registered.

    Raises:
        UnknownMessageTypeError: Nothing is registered under that name.
        DecodeError: The version is older than what can be read: it has no upcaster and no class.
    """
    newest = registry.newest(name, asked_version=version)
    if version >= newest.version or registry.upcaster(name, version) is not None:
        return newest
    try:
        return registry.by_version(name, version)
    except UnknownMessageTypeError as error:
        raise _missing_link(name, version, newest.version) from error


def upcast(builtins: object, *, registry: Registry, name: str, from_version: int, to_version: int) -> dict[str, Any]:
    """Return a decoded body of ``from_version`` as one of ``to_version``.

    Raises:
        DecodeError: The body is no object, a link of the chain is missing, or an upcaster failed.
    """
    body = builtins
    for version in range(from_version, to_version):
        if not isinstance(body, dict):
            reason = f"a {type(body).__qualname__} stands where version {version} should be an object"
            raise DecodeError(message_type=name, reason=reason)
        upcaster = registry.upcaster(name, version)
        if upcaster is None:
            raise _missing_link(name, version, to_version)
        try:
            body = cast("object", upcaster(cast("dict[str, Any]", body)))
        except Exception as error:  # an upcaster is the user's code and raises what it likes
            reason = f"its upcaster from version {version} raised {type(error).__name__}"
            raise DecodeError(message_type=name, reason=reason) from error
    if not isinstance(body, dict):
        raise DecodeError(message_type=name, reason=f"version {to_version} should be an object")
    return cast("dict[str, Any]", body)


def _missing_link(name: str, version: int, newest: int) -> DecodeError:
    reason = (
        f"it is of version {version}, the newest known is {newest}, and no upcaster from version {version} is "
        f"registered; add one: box.register(Newest, upcasters={{{version}: ...}})"
    )
    return DecodeError(message_type=name, reason=reason)
