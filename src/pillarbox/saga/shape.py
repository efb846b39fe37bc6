"""What the machine knows of a definition: nothing that can be called."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from pillarbox.retry import Retry
from pillarbox.saga.definition import Kind


class ActShape(Protocol):
    """What the machine knows of an act."""

    @property
    def kind(self) -> Kind:
        """How it takes effect."""
        ...

    @property
    def retry(self) -> Retry:
        """How its failures are tried again."""
        ...

    @property
    def timeout(self) -> timedelta | None:
        """How long an attempt may take."""
        ...


class StepShape(Protocol):
    """What the machine knows of a step."""

    @property
    def name(self) -> str:
        """Its durable name."""
        ...

    @property
    def do(self) -> ActShape:
        """What it does."""
        ...

    @property
    def undo(self) -> ActShape | None:
        """What undoes it."""
        ...

    @property
    def pivot(self) -> bool:
        """Whether it is the point of no return."""
        ...


class Shape(Protocol):
    """What the machine knows of a definition: stages of steps that run side by side."""

    @property
    def stages(self) -> Sequence[Sequence[StepShape]]:
        """The stages in order."""
        ...


class _Unshaped(Shape):
    @property
    def stages(self) -> Sequence[Sequence[StepShape]]:
        """None."""
        return ()


UNSHAPED = _Unshaped()
"""A definition that is not known; decisions of operators do not depend on it."""
