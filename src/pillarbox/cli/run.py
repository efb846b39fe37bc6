"""``pillarbox run``: the workers of a program, until a signal."""

from __future__ import annotations

import asyncio
import logging
import sys
from datetime import timedelta

import click

from pillarbox.app import Pillarbox
from pillarbox.cli.durations import duration
from pillarbox.cli.output import wants_json
from pillarbox.cli.places import json_option, load_box
from pillarbox.cli.stopping import Stopping
from pillarbox.telemetry import JsonLines, LoggingObserver, TextLines
from pillarbox.telemetry.logging_ import LOGGER_NAME, log_facts

LEVELS = ["debug", "info", "warning", "error"]


@click.command()
@click.argument("app", metavar="MODULE:BOX")
@click.option("--relay/--no-relay", default=None, help="Publish what the outbox holds.")
@click.option("--consumers/--no-consumers", default=None, help="Handle messages.")
@click.option("--grace", type=duration, help="How long a stop may take; left out: the box's drain_within.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
@json_option
def run(app: str, relay: bool | None, consumers: bool | None, grace: timedelta | None, log_level: str) -> None:  # noqa: FBT001  # click's signature
    """Run a program's relay and consumers until SIGTERM or SIGINT.

    Naming one role leaves out the other: --relay alone only publishes. The first signal lets handlers under way
    finish; the second ends the process at once, which loses nothing. One line is logged per event.
    """
    relay, consumers = _roles(relay, consumers)
    logger = _logger(log_level)
    box = load_box(app)
    box.observe(LoggingObserver(logger))
    _introduce(box, logger, relay=relay, consumers=consumers)
    within = grace if grace is not None else box.settings.drain_within
    stopping = Stopping(box, within=within, logger=logger)
    drained = asyncio.run(stopping.run(relay=relay, consumers=consumers))
    log_facts(logger, logging.INFO, {"event": "box_stopped", "service": box.name, "drained": str(drained).lower()})
    if not drained:
        raise click.exceptions.Exit(1)


def _roles(relay: bool | None, consumers: bool | None) -> tuple[bool, bool]:  # noqa: FBT001  # as click gives them
    """Return the roles wanted: one that is named leaves out those that are not."""
    unnamed = not (relay or consumers)
    wanted = (unnamed if relay is None else relay, unnamed if consumers is None else consumers)
    if not any(wanted):
        raise click.UsageError("there is nothing to run without relay and without consumers")
    return wanted


def _logger(level: str) -> logging.Logger:
    """Send what is logged to stderr as text, or to stdout as JSON."""
    handler = logging.StreamHandler(sys.stdout if wants_json() else sys.stderr)
    handler.setFormatter(JsonLines() if wants_json() else TextLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logger = logging.getLogger(LOGGER_NAME)
    logger.setLevel(level.upper())
    return logger


def _introduce(box: Pillarbox, logger: logging.Logger, *, relay: bool, consumers: bool) -> None:
    """Log what is about to run: above all each consumer's mode, which says what is promised about its effects."""
    roles = "+".join(name for name, on in (("relay", relay), ("consumers", consumers)) if on)
    log_facts(logger, logging.INFO, {"event": "box_starting", "service": box.name, "roles": roles})
    for one in box.consumers() if consumers else ():
        facts = {"consumer": one.identity, "mode": one.mode, "channels": " ".join(one.channels)}
        log_facts(logger, logging.INFO, {"event": "consumer_declared", **facts})
