"""What a box knows of the dependencies that its handlers call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pillarbox.consumer import Consumer
from pillarbox.errors import ConfigurationError
from pillarbox.message import check_name
from pillarbox.retry import CircuitBreaker


class Depending:
    """The part of a box that keeps the breakers of its dependencies."""

    _breakers: dict[str, CircuitBreaker]

    def dependency(self, name: str, breaker: CircuitBreaker, /) -> None:
        """Say when the dependency that consumers name by ``needs=name`` is taken to be down; optional.

        Args:
            name: what handlers call: a payment provider, say.
            breaker: how many failures open it, and for how long.

        Raises:
            ConfigurationError: another breaker was given for ``name``.
        """
        check_name(name, what="the name of a dependency")
        if self._breakers.setdefault(name, breaker) != breaker:
            raise ConfigurationError(f"the dependency {name!r} has a breaker already; say dependency() once for it")


def needed_by(consumers: Iterable[Consumer]) -> Mapping[str, Sequence[str]]:
    """Return the dependencies of ``consumers``, each with who needs it."""
    needed: dict[str, list[str]] = {}
    for consumer in consumers:
        if consumer.needs is not None:
            needed.setdefault(consumer.needs, []).append(consumer.identity)
    return needed
