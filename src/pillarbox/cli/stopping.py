"""Signals: the first one drains, the second one ends the process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from dataclasses import dataclass
from datetime import timedelta

from pillarbox.app import Pillarbox
from pillarbox.telemetry.logging_ import Fact, log_facts

SIGNALS = (signal.SIGTERM, signal.SIGINT)
NUDGE_S = 0.1
LAST_RESORT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """What a process does for its box."""

    relay: bool = False
    consumers: bool = False
    sagas: bool = False


class Stopping:
    """Runs a box until a signal asks it to stop."""

    def __init__(self, box: Pillarbox, *, within: timedelta, logger: logging.Logger) -> None:
        """Give handlers under way ``within`` to finish; what they do after that is rolled back and done again."""
        self._box = box
        self._within = within
        self._logger = logger
        self._asked = False
        self._gave_up = False
        self._box_ended = False

    async def run(self, roles: Roles) -> bool:
        """Run the box; return whether it ended by itself, with nothing left half done.

        Raises:
            InvalidSetupError: the box cannot start.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._signalled, number, loop, task)
        try:
            await self._box.run(relay=roles.relay, consumers=roles.consumers, sagas=roles.sagas)
        except asyncio.CancelledError:
            if not self._gave_up:
                raise
        finally:
            self._box_ended = True
        return not self._gave_up

    def _signalled(
        self, number: signal.Signals, loop: asyncio.AbstractEventLoop, task: asyncio.Task[object] | None
    ) -> None:
        if self._asked:
            log_facts(self._logger, logging.WARNING, {"event": "box_ended_at_once", "signal": number.name})
            logging.shutdown()
            os._exit(128 + number)
        self._asked = True
        facts: dict[str, Fact] = {
            "event": "box_draining",
            "signal": number.name,
            "within_s": self._within.total_seconds(),
        }
        log_facts(self._logger, logging.INFO, facts)
        self._nudge(loop)
        loop.call_later(self._within.total_seconds(), self._give_up, loop, task)

    def _nudge(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ask the box to stop, again and again: it may still be opening and not hear it yet."""
        if not self._box_ended:
            self._box.stop()
            loop.call_later(NUDGE_S, self._nudge, loop)

    def _give_up(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[object] | None) -> None:
        """Cancel what still runs; a handler's thread that cannot be cancelled does not keep the process alive."""
        if self._box_ended or task is None:
            return
        self._gave_up = True
        log_facts(self._logger, logging.WARNING, {"event": "box_drain_timed_out"})
        task.cancel()
        loop.call_later(LAST_RESORT_S, os._exit, 1)
