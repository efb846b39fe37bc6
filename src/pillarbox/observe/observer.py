"""The port through which events leave: to logs, metrics, alerts, tests."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from pillarbox.observe.events import Event

LOGGER = logging.getLogger(__name__)


class Observer(Protocol):
    """Someone who is told what happens, after it is durable."""

    @abstractmethod
    def notice(self, event: Event, /) -> None:
        """Take note of ``event``; must return soon. What it raises is logged, and changes nothing."""


class Observers(Observer):
    """Tells every observer; the list may grow until the work starts."""

    def __init__(self, observers: Sequence[Observer] = (), *, otherwise: Sequence[Observer] = ()) -> None:
        """Tell ``observers``, in this order, and ``otherwise`` until one is added that takes their place."""
        self._observers = [*observers, *otherwise]
        self._otherwise = otherwise

    def add(self, observer: Observer, *, beside: bool = False) -> None:
        """Tell one more, in the place of those that were told for want of others, or ``beside`` them."""
        if not beside:
            self._observers = [one for one in self._observers if one not in self._otherwise]
        self._observers.append(observer)

    def notice(self, event: Event, /) -> None:
        """Tell everyone; a mistake in one observer is neither the work's trouble nor another observer's."""
        for observer in self._observers:
            try:
                observer.notice(event)
            except Exception:
                LOGGER.exception("%s failed at %s", type(observer).__qualname__, type(event).__name__)
