"""What a box knows of the dependencies that its handlers call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cached_property

from pillarbox.consumer import Consumer
from pillarbox.consumer.dependency import NOTHING, Dependency, Needs, Sharing
from pillarbox.errors import ConfigurationError
from pillarbox.errors.values import check_value
from pillarbox.message import check_name
from pillarbox.retry import CircuitBreaker


class Depending(ABC):
    """The part of a box that keeps the breakers of its dependencies."""

    @abstractmethod
    def _check_can_be_heard(self) -> None: ...

    @cached_property
    def _breakers(self) -> dict[str, CircuitBreaker]:
        return {}

    def dependency(self, name: str, breaker: CircuitBreaker, /) -> None:
        """Say when the dependency that consumers name by ``needs=name`` is taken to be down; optional.

        Args:
            name: what handlers call: a payment provider, say.
            breaker: how many failures open it, and for how long.

        Raises:
            ConfigurationError: another breaker was given for ``name``, or the box is running.
        """
        self._check_can_be_heard()
        check_name(name, what="the name of a dependency")
        check_value(breaker, CircuitBreaker, name=f"the breaker of dependency {name!r}")
        if self._breakers.setdefault(name, breaker) != breaker:
            raise ConfigurationError(f"the dependency {name!r} has a breaker already; say dependency() once for it")


class Dependencies:
    """The dependencies of one process: each is shared by all its consumers that need it."""

    def __init__(self, breakers: Mapping[str, CircuitBreaker], sharing: Sharing) -> None:
        """Watch each by its breaker, or by one of the defaults."""
        self._breakers = breakers
        self._sharing = sharing
        self._known: dict[str, Dependency] = {}

    def of(self, consumer: Consumer) -> Needs:
        """Return what ``consumer`` needs."""
        identity, timeout = consumer.needs, consumer.options.timeout
        if identity is None:
            return NOTHING
        if identity not in self._known:
            breaker = self._breakers.get(consumer.options.needs or "", CircuitBreaker())
            sharing = replace(self._sharing, lease=self._sharing.lease + (timeout or timedelta(0)))
            self._known[identity] = Dependency(identity, breaker, sharing)
        return self._known[identity]


def needed_by(consumers: Iterable[Consumer]) -> Mapping[str, Sequence[str]]:
    """Return the dependencies of ``consumers``, each with who needs it."""
    needed: dict[str, list[str]] = {}
    for consumer in consumers:
        if consumer.needs is not None:
            needed.setdefault(consumer.needs, []).append(consumer.identity)
    return needed
