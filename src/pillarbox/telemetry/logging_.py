"""Events as log records: one line each, a stable ``event`` key, ids always, bodies never."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import cast

from pillarbox.observe import (
    AlertFailed,
    AttemptFailed,
    BreakerOpened,
    BrokerAway,
    CauseMissing,
    ConsumerStopped,
    DestinationNotReady,
    Event,
    FlowDoubtful,
    FlowStuck,
    GapFetched,
    GapFound,
    GapSkipped,
    HeldKeyFull,
    LogGapFound,
    MessageDead,
    Observer,
    RecordParked,
    RunRolledBack,
    SagaNeedsAttention,
    SagaStepFailed,
    SagaUnreadable,
    SettlementRefused,
    WorkerFaltered,
)
from pillarbox.telemetry.masking import masked

LOGGER_NAME = "pillarbox"
FACTS = "pillarbox"
"""The attribute of a log record under which the event's fields stand, for handlers that want them unformatted."""

WARNINGS = (
    AlertFailed,
    AttemptFailed,
    BreakerOpened,
    BrokerAway,
    DestinationNotReady,
    FlowDoubtful,
    GapFetched,
    RunRolledBack,
    SagaStepFailed,
    SettlementRefused,
)
ERRORS = (
    CauseMissing,
    ConsumerStopped,
    FlowStuck,
    GapFound,
    GapSkipped,
    HeldKeyFull,
    LogGapFound,
    MessageDead,
    RecordParked,
    SagaNeedsAttention,
    SagaUnreadable,
    WorkerFaltered,
)
FAILURES = frozenset((*WARNINGS, *ERRORS))
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PLAIN = re.compile(r"[\w./:@+*-]+")

Fact = str | int | float | None


class LoggingObserver(Observer):
    """Logs every event: what an operator must decide about as errors, what mends itself as warnings."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        """Log to ``logger``, by default the one named ``pillarbox``."""
        self._logger = logger if logger is not None else logging.getLogger(LOGGER_NAME)

    def notice(self, event: Event, /) -> None:
        """Log ``event``."""
        level = (
            logging.ERROR
            if isinstance(event, ERRORS)
            else logging.WARNING
            if isinstance(event, WARNINGS)
            else logging.INFO
        )
        if self._logger.isEnabledFor(level):
            log_facts(self._logger, level, facts_of(event))


class FailureLog(Observer):
    """Logs what ``LoggingObserver`` logs as warnings and errors; for a box that nobody observes."""

    def __init__(self) -> None:
        """Log to the logger named ``pillarbox``; without a handler of the program's, Python prints it on stderr."""
        self._log = LoggingObserver()

    def notice(self, event: Event, /) -> None:
        """Log ``event`` if it tells of a failure."""
        if type(event) in FAILURES:
            self._log.notice(event)


def log_facts(logger: logging.Logger, level: int, facts: Mapping[str, Fact]) -> None:
    """Log ``facts`` as one line that begins with the event's name."""
    logger.log(level, "%s", line_of(facts), extra={FACTS: dict(facts)})


def facts_of(event: Event) -> dict[str, Fact]:
    """Return the event's name and fields; durations become seconds and say so in their name."""
    facts: dict[str, Fact] = {"event": _HUMP.sub("_", type(event).__name__).lower()}
    for field in fields(event):
        value = getattr(event, field.name)
        if isinstance(value, timedelta):
            facts[f"{field.name}_s"] = value.total_seconds()
        elif isinstance(value, tuple):
            parts = cast("tuple[str, ...]", value)
            facts[field.name] = ("; " if any(" " in part for part in parts) else " ").join(parts)
        else:
            facts[field.name] = masked(value) if isinstance(value, str) else value
    return facts


def line_of(facts: Mapping[str, Fact]) -> str:
    """Return ``facts`` as ``name=value`` pairs on one line; a value with blanks or control characters is quoted."""
    return " ".join(f"{name}={_quoted(value)}" for name, value in facts.items() if value is not None)


def _quoted(value: Fact) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


class TextLines(logging.Formatter):
    """Formats records for people: instant, level, line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line; what is not ours keeps its traceback, if it has one."""
        line = f"{_instant(record)} {record.levelname.lower():7} {masked(record.getMessage())}"
        return f"{line}\n{masked(self.formatException(record.exc_info))}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """Formats records for machines: one JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the event's fields, or the text of a record that is not ours."""
        facts: object = getattr(record, FACTS, None)
        head: dict[str, object] = {"at": _instant(record), "level": record.levelname.lower()}
        if isinstance(facts, dict):
            return json.dumps({**head, **facts}, ensure_ascii=False)
        head |= {"event": "log", "logger": record.name, "message": masked(record.getMessage())}
        if record.exc_info:
            head["traceback"] = masked(self.formatException(record.exc_info))
        return json.dumps(head, ensure_ascii=False)


def _instant(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds")
