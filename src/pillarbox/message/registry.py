"""The registry: which classes a box knows; one per box, never a global."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from pillarbox.errors import ConfigurationError, DuplicateTypeError, UnknownMessageTypeError
from pillarbox.errors.values import check_value
from pillarbox.message.declare import message_type_of

if TYPE_CHECKING:
    from pillarbox.message.declare import MessageType

Upcaster: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]  # Any: decoded JSON of a schema that is gone
"""Turns a decoded body of one version into the next version's. Source: EIP, *Message Translator*."""


class Registry:
    """Finds declared classes by class, by name and version, and the newest by name.

    Messages name logical types, and only what is registered here is ever decoded: a body cannot choose a class.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._types: dict[str, dict[int, MessageType]] = {}
        self._newest: dict[str, MessageType] = {}
        self._upcasters: dict[tuple[str, int], Upcaster] = {}

    def register(self, *types: type[object], upcasters: Mapping[int, Upcaster] | None = None) -> None:
        """Add declared classes; adding the same class again changes nothing.

        Args:
            types: Classes declared with ``@event`` or ``@command``.
            upcasters: For a single class: each turns the body of the version it stands under into the next version's.

        Raises:
            ConfigurationError: A class is not declared, an upcaster does not fit, or a destination has types with
                numbers and types without. Nothing was added.
            DuplicateTypeError: Another class has the same name and version. Nothing was added.
        """
        check_value(upcasters, Mapping | None, name="upcasters")
        declared = [message_type_of(cls) for cls in types]
        seen: dict[tuple[str, int], MessageType] = {}
        for one in declared:
            identity = (one.name, one.version)
            other = self._types.get(one.name, {}).get(one.version) or seen.get(identity)
            if other is not None and other.python_type is not one.python_type:
                raise DuplicateTypeError(
                    message_type=one.name, version=one.version, first=_label(other), second=_label(one)
                )
            seen[identity] = one
        self._check_numbering(declared)
        steps = self._checked_upcasters(declared, upcasters or {})
        for one in declared:
            versions = self._types.setdefault(one.name, {})
            versions[one.version] = one
            self._newest[one.name] = versions[max(versions)]
        self._upcasters.update(steps)

    def by_class(self, cls: type[object]) -> MessageType:
        """Return the type of a registered class.

        Raises:
            ConfigurationError: The class is not declared.
            UnknownMessageTypeError: It is declared but not registered here.
        """
        declared = message_type_of(cls)
        if cls in self:
            return declared
        raise UnknownMessageTypeError(message_type=declared.name, version=declared.version)

    def by_version(self, name: str, version: int) -> MessageType:
        """Return the type registered for exactly this version.

        Raises:
            UnknownMessageTypeError: There is none.
        """
        found = self._types.get(name, {}).get(version)
        if found is None:
            raise UnknownMessageTypeError(message_type=name, version=version)
        return found

    def newest(self, name: str, *, asked_version: int = 1) -> MessageType:
        """Return the type of the highest version registered under ``name``.

        Args:
            name: The logical name.
            asked_version: The version that the caller came across, for the error.

        Raises:
            UnknownMessageTypeError: Nothing is registered under that name.
        """
        newest = self._newest.get(name)
        if newest is None:
            raise UnknownMessageTypeError(message_type=name, version=asked_version)
        return newest

    def upcaster(self, name: str, from_version: int) -> Upcaster | None:
        """Return what turns a body of ``from_version`` into the next version's, if there is such a thing."""
        return self._upcasters.get((name, from_version))

    def missing_upcasters(self) -> tuple[tuple[str, int], ...]:
        """Return each (name, version) where a chain of upcasters breaks off before the newest version.

        Bodies of the versions before such a gap could not be read: start-up reports them.
        """
        gaps: list[tuple[str, int]] = []
        for name, versions in self._types.items():
            starts = [version for (owner, version) in self._upcasters if owner == name]
            if starts:
                gaps += [(name, v) for v in range(min(starts), max(versions)) if (name, v) not in self._upcasters]
        return tuple(gaps)

    def types(self) -> tuple[MessageType, ...]:
        """Return every registered type, by name and version."""
        return tuple(versions[v] for _, versions in sorted(self._types.items()) for v in sorted(versions))

    def __contains__(self, cls: type[object]) -> bool:
        """Tell whether a declared class is registered."""
        declared = message_type_of(cls)
        return self._types.get(declared.name, {}).get(declared.version) is declared

    def _check_numbering(self, declared: list[MessageType]) -> None:
        known: dict[str, MessageType] = {}
        for one in (*self.types(), *declared):
            other = known.setdefault(one.destination, one)
            if other.numbered != one.numbered:
                numbered, plain = (other, one) if other.numbered else (one, other)
                msg = (
                    f"{numbered.name!r} is numbered and {plain.name!r} is not, and both go to {one.destination!r}: "
                    "give both numbered=True, or neither; else consumers could not tell a gap from a plain message"
                )
                raise ConfigurationError(msg)

    def _checked_upcasters(
        self, declared: list[MessageType], upcasters: Mapping[int, Upcaster]
    ) -> dict[tuple[str, int], Upcaster]:
        if not upcasters:
            return {}
        if len(declared) != 1:
            msg = "upcasters= belongs to one class; register each class that has some by a call of its own"
            raise ConfigurationError(msg)
        (one,) = declared
        for version, upcaster in upcasters.items():
            if not 1 <= version < one.version:
                msg = f"{one.name!r} version {one.version}: an upcaster from version {version} leads nowhere"
                raise ConfigurationError(msg)
            known = self._upcasters.get((one.name, version))
            if known is not None and known is not upcaster:
                msg = f"{one.name!r}: there are two upcasters from version {version}; keep one"
                raise ConfigurationError(msg)
        return {(one.name, version): upcaster for version, upcaster in upcasters.items()}


def _label(declared: MessageType) -> str:
    return f"{declared.python_type.__module__}.{declared.python_type.__qualname__}"
