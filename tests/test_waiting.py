"""Waiting returns as soon as the condition holds, and complains clearly when it does not."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.waiting import wait_blocking, wait_until

if TYPE_CHECKING:
    from pathlib import Path

A_MOMENT = timedelta(milliseconds=50)


async def test_the_first_true_answer_is_returned() -> None:
    answers = iter([0, None, "", "here", "later"])

    assert await wait_until(lambda: next(answers)) == "here"


async def test_an_asynchronous_predicate_is_awaited() -> None:
    answers = iter([0, 3])

    async def ask() -> int:
        return next(answers)

    assert await wait_until(ask) == 3


async def test_what_never_holds_is_named_with_its_last_answer() -> None:
    with pytest.raises(AssertionError, match=r"not true within 0.05 s: the relay is idle \(last answer: 0\)"):
        await wait_until(lambda: 0, within=A_MOMENT, what="the relay is idle")


async def test_a_condition_without_a_name_is_quoted() -> None:
    published: list[str] = []

    with pytest.raises(AssertionError, match=r"len\(published\) == 3"):
        await wait_until(lambda: len(published) == 3, within=A_MOMENT)


async def test_a_predicate_that_hangs_is_cancelled_at_the_deadline() -> None:
    with pytest.raises(AssertionError, match="not true within"):
        await wait_until(asyncio.Event().wait, within=A_MOMENT)


async def test_a_predicates_own_timeout_is_passed_on() -> None:
    async def ask() -> bool:
        raise TimeoutError("of the database")

    with pytest.raises(TimeoutError, match="of the database"):
        await wait_until(ask)


def test_blocking_returns_the_first_true_answer_and_complains_likewise() -> None:
    answers = iter([0, 4])

    assert wait_blocking(lambda: next(answers)) == 4
    with pytest.raises(AssertionError, match="the port is free"):
        wait_blocking(lambda: False, A_MOMENT, what="the port is free")


def test_dice_are_replayed_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PILLARBOX_SEED", "42")

    rng = request.getfixturevalue("rng")

    assert rng.random() == random.Random(42).random()
    assert "PILLARBOX_SEED=42" in capsys.readouterr().out


def test_a_sqlite_database_is_a_file_that_does_not_exist_yet(sqlite_url: str, tmp_path: Path) -> None:
    assert sqlite_url == f"sqlite:///{tmp_path}/pillarbox.db"
    assert not (tmp_path / "pillarbox.db").exists()
