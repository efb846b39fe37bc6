"""Programs are driven the same way by either colour."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text

from pillarbox.transaction import Execute, Program, Rows, drive, drive_sync, step
from pillarbox.transaction.program import Finished

ONE, TWO = text("SELECT 1"), text("SELECT 2")

Drive = Callable[[Program[object], Callable[[Execute], Rows]], Awaitable[object]]


async def awaited(program: Program[object], execute: Callable[[Execute], Rows]) -> object:
    async def execute_later(wanted: Execute) -> Rows:
        return execute(wanted)

    return await drive(program, execute_later)


async def direct(program: Program[object], execute: Callable[[Execute], Rows]) -> object:
    return drive_sync(program, execute)


@pytest.fixture(params=[awaited, direct])
def driven(request: pytest.FixtureRequest) -> Drive:
    drive_either: Drive = request.param
    return drive_either


async def test_a_program_gets_the_rows_of_each_statement_and_returns_its_result(driven: Drive) -> None:
    def program() -> Program[object]:
        first = yield Execute(ONE)
        second = yield Execute(TWO, {"id": 2})
        return first, second

    result = await driven(program(), lambda wanted: [(wanted.parameters,)])

    assert result == ([(None,)], [({"id": 2},)])


async def test_a_program_without_statements_runs(driven: Drive) -> None:
    def program() -> Program[object]:
        return "nothing to do"
        yield

    assert await driven(program(), lambda _: ()) == "nothing to do"


async def test_an_empty_sequence_of_parameters_executes_nothing(driven: Drive) -> None:
    executed: list[Execute] = []

    def program() -> Program[object]:
        none = yield Execute(ONE, [])
        again = yield Execute(ONE, ())
        yield Execute(TWO, {})
        return none, again

    def execute(wanted: Execute) -> Rows:
        executed.append(wanted)
        return ()

    assert await driven(program(), execute) == ((), ())
    assert executed == [Execute(TWO, {})]


def failing(_: Execute) -> Rows:
    raise LookupError("no such table")


async def test_a_failed_statement_is_thrown_into_the_program_which_may_go_on(driven: Drive) -> None:
    def program() -> Program[object]:
        try:
            yield Execute(ONE)
        except LookupError as error:
            return f"handled: {error}"

    assert await driven(program(), failing) == "handled: no such table"


async def test_a_failure_that_the_program_does_not_handle_propagates(driven: Drive) -> None:
    def program() -> Program[object]:
        yield Execute(ONE)

    with pytest.raises(LookupError, match="no such table"):
        await driven(program(), failing)


async def test_a_cancelled_statement_closes_the_program_instead_of_asking_it() -> None:
    closed: list[str] = []

    def program() -> Program[None]:
        try:
            yield Execute(ONE)
        except Exception:  # pragma: no cover
            closed.append("asked")
        finally:
            closed.append("closed")

    async def cancelled(_: Execute) -> Rows:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await drive(program(), cancelled)

    assert closed == ["closed"]


def test_a_program_can_be_stopped_between_two_statements() -> None:
    def program() -> Program[str]:
        yield Execute(ONE)
        yield Execute(TWO)
        return "end"

    under_way = program()

    assert step(under_way) == Execute(ONE)
    assert step(under_way, ()) == Execute(TWO)
    assert step(under_way, ()) == Finished("end")
