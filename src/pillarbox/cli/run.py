"""``pillarbox run``: the workers of a program, until a signal."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta

import click

from pillarbox.app import Pillarbox
from pillarbox.app.orchestrating import is_of_replies
from pillarbox.cli.durations import duration
from pillarbox.cli.output import wants_json
from pillarbox.cli.places import json_option, load_box
from pillarbox.cli.stopping import Roles, Stopping
from pillarbox.errors import ConfigurationError
from pillarbox.telemetry import JsonLines, LoggingObserver, TextLines
from pillarbox.telemetry.logging_ import LOGGER_NAME, Fact, log_facts

LEVELS = ["debug", "info", "warning", "error"]


@click.command()
@click.argument("app", metavar="MODULE:BOX")
@click.option("--relay/--no-relay", default=None, help="Publish what the outbox holds.")
@click.option("--consumers/--no-consumers", default=None, help="Handle messages.")
@click.option("--sagas/--no-sagas", default=None, help="Drive sagas, and receive the replies that they await.")
@click.option("--grace", type=duration, help="How long a stop may take; left out: the box's drain_within.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
@json_option
def run(app: str, *, grace: timedelta | None, log_level: str, **named: bool | None) -> None:
    """Run a program's relay, consumers and sagas until a signal.

    Naming one role leaves out the others: --relay alone only publishes. The first SIGTERM or SIGINT lets handlers
    under way finish; the second ends the process at once, which loses nothing. One line is logged per event.
    """
    roles = _roles(named)
    logger = _logger(log_level)
    box = load_box(app)
    box.observe(LoggingObserver(logger))
    _introduce(box, logger, roles)
    within = grace if grace is not None else box.settings.drain_within
    stopping = Stopping(box, within=within, logger=logger)
    drained = asyncio.run(stopping.run(roles))
    log_facts(logger, logging.INFO, {"event": "box_stopped", "service": box.name, "drained": str(drained).lower()})
    if not drained:
        raise click.exceptions.Exit(1)


def _roles(named: Mapping[str, bool | None]) -> Roles:
    """Return the roles wanted: one that is named leaves out those that are not."""
    unnamed = not any(named.values())
    wanted = {role: unnamed if on is None else on for role, on in named.items()}
    if not any(wanted.values()):
        raise click.UsageError("there is nothing to run without relay, without consumers and without sagas")
    return Roles(**wanted)


def _logger(level: str) -> logging.Logger:
    """Send what is logged to stderr as text, or to stdout as JSON."""
    handler = logging.StreamHandler(sys.stdout if wants_json() else sys.stderr)
    handler.setFormatter(JsonLines() if wants_json() else TextLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logger = logging.getLogger(LOGGER_NAME)
    logger.setLevel(level.upper())
    return logger


def _introduce(box: Pillarbox, logger: logging.Logger, roles: Roles) -> None:
    """Log what is about to run: above all each consumer's mode, which says what is promised about its effects."""
    sagas = box.saga_definitions()
    if roles == Roles(sagas=True) and not sagas:
        raise ConfigurationError(f"there is nothing to run: {box.name} includes no saga")
    named = "+".join(name for name, on in asdict(roles).items() if on)
    log_facts(logger, logging.INFO, {"event": "box_starting", "service": box.name, "roles": named})
    for one in box.consumers():
        if roles.sagas if is_of_replies(one) else roles.consumers:
            facts = {"consumer": one.identity, "mode": one.mode, "channels": " ".join(one.channels)}
            log_facts(logger, logging.INFO, {"event": "consumer_declared", **facts})
    for definition in sagas if roles.sagas else ():
        steps = " ".join(step.name for stage in definition.stages for step in stage)
        told: dict[str, Fact] = {"saga": definition.saga, "version": definition.version, "steps": steps}
        log_facts(logger, logging.INFO, {"event": "saga_declared", **told})
