"""Who decides and why must be texts that every database keeps."""

from __future__ import annotations

from typing import Any

import pytest

from pillarbox.audit import checked


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"by": " ", "reason": "why"}, "by= must say who decides"),
        ({"by": "ann", "reason": " "}, "reason= must say why"),
        ({"by": None, "reason": "why"}, "by= must be a text, got None"),
        ({"by": "a" * 201, "reason": "why"}, "by= must have at most 200 characters, got 201"),
        ({"by": "a\0b", "reason": "why"}, "by= must have no NUL character"),
        ({"by": "ann", "reason": "a\0b"}, "reason= must have no NUL character"),
        ({"by": "ann", "reason": "a\ud800b"}, "reason= must have no NUL character and no lone surrogate"),
    ],
)
def test_what_cannot_be_kept_is_refused(words: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        checked(**words)


def test_the_longest_name_and_any_reason_pass() -> None:
    checked(by="é" * 200, reason="\N{PILE OF POO}\n" * 1000)
