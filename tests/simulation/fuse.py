"""What lets a program fail at one of its steps, each in its turn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Fuse:
    """Blows at step number ``at``, counted from 0, and only then."""

    at: int
    error: BaseException
    steps: int = 0
    blown_before: str = ""

    async def step(self, what: str) -> None:
        """Burn down by one."""
        self.steps += 1
        if self.steps == self.at + 1:
            self.blown_before = what
            raise self.error
