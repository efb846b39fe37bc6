"""Observers that raise: told of in the log, and nobody else's trouble."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest

from pillarbox.observe import BreakerClosed, Event, Observer, Observers

CLOSED = BreakerClosed(dependency="payments", away_for=timedelta(seconds=3))


class Told(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def notice(self, event: Event, /) -> None:
        self.events.append(event)


class Raising(Observer):
    """An observer with a mistake in it."""

    def notice(self, event: Event, /) -> None:
        raise KeyError("no such counter")


def test_an_observer_that_raises_is_logged_and_the_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    observers = Observers([Raising(), told])

    with caplog.at_level(logging.ERROR, logger="pillarbox"):
        observers.notice(CLOSED)

    assert told.events == [CLOSED]
    [record] = caplog.records
    assert "Raising" in record.getMessage()
    assert "BreakerClosed" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


def test_what_ends_the_process_is_not_kept_from_it() -> None:
    class Ending(Observer):
        def notice(self, event: Event, /) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Observers([Ending()]).notice(CLOSED)
