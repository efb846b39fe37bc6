"""Programs: database work written once, run by a transaction of either colour.

A program is a generator. It yields `Execute` and is sent back the rows, so whoever drives it decides how to wait for
the database, and a test can stop it between any two statements.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from sqlalchemy import Executable

T = TypeVar("T")

Row: TypeAlias = Sequence[Any]
"""One row, read by position only: the one thing that the rows of every driver have in common."""

Rows: TypeAlias = Sequence[Row]
"""The rows of a statement; empty for a statement that returns none."""

Parameters: TypeAlias = Mapping[str, object] | Sequence[Mapping[str, object]] | None
"""One set of values, or a sequence of sets to execute the statement once with each (never with RETURNING)."""


@dataclass(frozen=True, slots=True)
class Execute:
    """One statement that a program wants executed.

    Build the statement once, as a constant, and pass what varies as parameters: it is then compiled once per dialect.
    An empty sequence of parameters executes nothing.
    """

    statement: Executable
    parameters: Parameters = None


Program: TypeAlias = Generator[Execute, Rows, T]
"""Database work that ends in a `T`."""


@dataclass(frozen=True, slots=True)
class Finished(Generic[T]):
    """A program that has ended, and what it returned."""

    result: T


def step(program: Program[T], answer: Rows | Exception | None = None) -> Execute | Finished[T]:
    """Move ``program`` on by one statement.

    Args:
        program: A program, fresh or stopped at a statement.
        answer: What became of the statement it stopped at: its rows, or the exception to throw into the program;
            ``None`` for a fresh program.

    Returns:
        The next statement, or the end.
    """
    try:
        if answer is None:
            wanted = next(program)
        elif isinstance(answer, Exception):
            wanted = program.throw(answer)
        else:
            wanted = program.send(answer)
        while _executes_nothing(wanted):
            wanted = program.send(())
    except StopIteration as end:
        return Finished(end.value)
    return wanted


async def drive(program: Program[T], execute: Callable[[Execute], Awaitable[Rows]]) -> T:
    """Run ``program``, awaiting each of its statements with ``execute``, and return its result.

    What ``execute`` raises is thrown into the program. A cancellation closes the program instead.
    """
    with closing(program):
        stepped = step(program)
        while isinstance(stepped, Execute):
            try:
                answer: Rows | Exception = await execute(stepped)
            except Exception as error:  # the program decides; unhandled, it propagates from there
                answer = error
            stepped = step(program, answer)
        return stepped.result


def drive_sync(program: Program[T], execute: Callable[[Execute], Rows]) -> T:
    """Run ``program``, executing each of its statements with ``execute``, and return its result.

    What ``execute`` raises is thrown into the program. An interruption closes the program instead.
    """
    with closing(program):
        stepped = step(program)
        while isinstance(stepped, Execute):
            try:
                answer: Rows | Exception = execute(stepped)
            except Exception as error:  # the program decides; unhandled, it propagates from there
                answer = error
            stepped = step(program, answer)
        return stepped.result


def _executes_nothing(wanted: Execute) -> bool:
    return wanted.parameters is not None and not isinstance(wanted.parameters, Mapping) and not wanted.parameters
