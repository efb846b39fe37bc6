"""The definitions that a box can run, and which of them runs an instance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pillarbox.saga.definition import Saga
from pillarbox.saga.resolve import Definition


class Catalogue:
    """Definitions by identity and version; a newer one stands in for an older one that it has upcasters for."""

    def __init__(self, definitions: Sequence[Definition]) -> None:
        """Know ``definitions``."""
        self.definitions = tuple(sorted(definitions, key=lambda one: (one.saga, one.version)))
        self._by_version: dict[tuple[str, int], Definition] = {}
        for definition in self.definitions:
            for version in taken_over(definition):
                self._by_version[definition.saga, version] = definition
        for definition in self.definitions:  # the version itself, where there is one, comes before every stand-in
            self._by_version[definition.saga, definition.version] = definition

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what it can run, ``<service>/<saga>@<version>``."""
        return tuple(f"{saga}@{version}" for saga, version in sorted(self._by_version))

    @property
    def own_graphs(self) -> Mapping[tuple[str, int], str]:
        """The steps of each version that is defined here, as text; those that it takes over were run by others."""
        return {(definition.saga, definition.version): definition.graph() for definition in self.definitions}

    @property
    def graphs(self) -> Mapping[tuple[str, int], str]:
        """The steps of each version that it can run, as text."""
        return {key: definition.graph() for key, definition in self._by_version.items()}

    def get(self, saga: str, version: int) -> Definition | None:
        """Return what runs instances of ``version``; ``None`` if nothing here does."""
        return self._by_version.get((saga, version))

    def newest(self, saga: str) -> Definition | None:
        """Return the newest definition of ``saga``."""
        found = [one for one in self.definitions if one.saga == saga]
        return found[-1] if found else None


def taken_over(definition: Definition | Saga[Any]) -> Sequence[int]:
    """Return the older versions whose states it can read."""
    versions: list[int] = []
    version = definition.version - 1
    while version in definition.upcasters:
        versions.append(version)
        version -= 1
    return versions
