"""Takes passwords out of text that people and log stores will see."""

from __future__ import annotations

import re

MASK = "***"
_IN_URL = re.compile(r"(//[^\s/:@'\"]*:)[^\s'\"]*(?=@)")
"""Up to the last @ of the word: a password that was not encoded may hold an @ or a slash of its own."""
_NAMED = re.compile(
    r"(?i)\b((?:password|passwd|pwd|sslpassword|secret|token)\s*=\s*)('[^']*'|\"[^\"]*\"|[^\s&;,)'\"]+)"
)


def masked(text: str) -> str:
    """Return ``text`` with the passwords in its URLs and connection strings replaced."""
    return _NAMED.sub(rf"\g<1>{MASK}", _IN_URL.sub(rf"\g<1>{MASK}", text))
