"""A new file that several open at the same moment."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url, text

from pillarbox.errors import StoreUnavailableError
from pillarbox.stores.sqlite import sqlite_store
from pillarbox.transaction import Execute, Program, Rows

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS, AT_ONCE = 20, 12


def ask() -> Program[Rows]:
    return (yield Execute(text("SELECT 1")))


async def test_a_new_file_may_be_opened_by_several_at_once(tmp_path: Path) -> None:
    for number in range(ROUNDS):
        stores = [sqlite_store(make_url(f"sqlite:///{tmp_path / str(number)}.db")) for _ in range(AT_ONCE)]

        async with asyncio.TaskGroup() as tasks:
            answers = [tasks.create_task(store.run(ask())) for store in stores]

        assert [answer.result() for answer in answers] == [[(1,)]] * AT_ONCE
        for store in stores:
            await store.close()


def test_the_thread_of_a_file_that_cannot_be_opened_has_ended_before_its_loop(tmp_path: Path) -> None:
    """It reports to the loop once more, after the error: a command would print its traceback beside the message."""

    async def fail() -> list[threading.Thread]:
        store = sqlite_store(make_url(f"sqlite:///{tmp_path}"))
        known = {*threading.enumerate()}
        with pytest.raises(StoreUnavailableError):
            async with store.begin():
                pass
        await store.close()
        return [one for one in threading.enumerate() if one not in known and "asyncio" not in one.name]

    assert [asyncio.run(fail()) for _ in range(ROUNDS)] == [[]] * ROUNDS
