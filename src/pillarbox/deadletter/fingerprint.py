"""What a failure looks like: its stack, and a short text that is the same for failures of the same cause."""

from __future__ import annotations

import hashlib
import re
import sysconfig
import traceback
from types import FrameType

from pillarbox.deadletter.redaction import Redact, nothing_redacted
from pillarbox.errors import DecodeError
from pillarbox.errors.reading import text_of, traceback_of
from pillarbox.holding import storable

MAX_STACK_CHARS = 8_000
FRAMES = 8
"""How many of the innermost frames tell causes apart: recursion must not."""

UNTOLD = "(its text may quote the body)"

_UUID = r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}"
_IDENTIFIERS = re.compile(rf"\b{_UUID}\b|0x[0-9a-f]+|\b(?=[0-9a-f]*\d)[0-9a-f]{{8,}}\b|\d+", re.IGNORECASE)
_STANDARD = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})
_INSTALLED = ("site-packages", "dist-packages")
_OURS = __name__.partition(".")[0]


def stack_of(error: BaseException, redact: Redact = nothing_redacted) -> str:
    """Return the stack of ``error``, its end kept where it is too long; ``redact`` is given the whole of it.

    Of what made a body unreadable it has the frames without the text: validators quote what they were given.
    """
    lines = [*_frames_of_cause(error), *traceback_of(error, with_causes=not isinstance(error, DecodeError))]
    return storable(redact("".join(lines)))[-MAX_STACK_CHARS:]


def fingerprint_of(error: BaseException, message_type: str, *, package: str = "") -> str:
    """Return the same short text for failures of the same cause, in every process.

    The cause is the message's type, the error's class and the application's own functions on the way to it. A failure
    outside of them, as that of a body that cannot be read, is told apart by its text.

    Args:
        package: the top-level package of the handler, which is the application's wherever it is installed.
    """
    stack = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    frames = [_name(frame) for frame in stack if _is_of_the_application(frame, package)]
    where = frames[-FRAMES:] or [text_of(error)[:200]]
    cause = "\0".join([message_type, type(error).__qualname__, *map(stripped, where)])
    return hashlib.sha256(cause.encode("utf-8", "replace")).hexdigest()[:16]


def _frames_of_cause(error: BaseException) -> list[str]:
    cause = error.__cause__
    if cause is None or not isinstance(error, DecodeError):
        return []
    return [*traceback.format_tb(cause.__traceback__), f"{type(cause).__qualname__}: {UNTOLD}\n\n"]


def stripped(text: str) -> str:
    """Return ``text`` without numbers and ids."""
    return _IDENTIFIERS.sub("#", text)


def _name(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_qualname}"


def _is_of_the_application(frame: FrameType, package: str) -> bool:
    """Tell whether ``frame`` is of ``package``, or neither of another installed one, nor Python's or ours."""
    file, module = frame.f_code.co_filename, str(frame.f_globals.get("__name__", ""))
    top = module.partition(".")[0]
    if file.startswith("<frozen") or top == _OURS:
        return False
    if top == package:
        return True
    return not file.startswith(_STANDARD) and not any(name in file for name in _INSTALLED)
