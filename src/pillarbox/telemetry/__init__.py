"""Telemetry: what happens, told to logs.

Guarantee: one line per event, with a stable name and the ids; bodies and keys of messages are never in it.
Not promised: a configured logging; the program, or ``pillarbox run``, decides where lines go.
Source: Oban's telemetry; the reading order is logging_, masking.
"""

from pillarbox.telemetry.logging_ import FailureLog, JsonLines, LoggingObserver, TextLines
from pillarbox.telemetry.masking import masked

__all__ = ["FailureLog", "JsonLines", "LoggingObserver", "TextLines", "masked"]
