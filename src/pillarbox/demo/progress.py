"""A progress bar on standard error, where that is a terminal."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


class Progress:
    """Two bars: orders placed, orders that came to an end."""

    def __init__(self, total: int) -> None:
        """Expect ``total`` orders."""
        columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Bars(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
        self._placed = self._bars.add_task("placed", total=total)
        self._settled = self._bars.add_task("settled", total=total)

    def __enter__(self) -> Progress:
        """Show the bars."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bars away."""
        self._bars.stop()

    def show(self, *, placed: int, settled: int) -> None:
        """Move the bars."""
        self._bars.update(self._placed, completed=placed)
        self._bars.update(self._settled, completed=settled)
