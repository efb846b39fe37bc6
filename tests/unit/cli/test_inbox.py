"""Inboxes counted and purged on the command line, and dead letters that are too old to be replayed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from pillarbox.idempotency.business_key import row_of
from pillarbox.relational.idempotency import RelationalInboxStore
from pillarbox.transaction import Program
from tests.unit.cli.conftest import CONSUMER, Shell, message

PROGRAM = """
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import InboxSettings, Pillarbox, Settings, event

@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str

box = Pillarbox("shop", store="{url}", settings=Settings(inbox=InboxSettings({settings})))

@box.on(OrderPlaced, name="notify")
async def notify(order: OrderPlaced, tx: AsyncConnection) -> None: ...
"""


def age(pillarbox: Shell, table: str, column: str, by: timedelta) -> None:
    """Have everything in ``table`` happened earlier."""
    with closing(sqlite3.connect(pillarbox.url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute(f"UPDATE pillarbox_{table} SET {column} = {column} - ?", [by // timedelta(microseconds=1)])


@pytest.fixture
def remember(pillarbox: Shell) -> Callable[[int], None]:
    """Records ids, and one business key, that are 40 days old; and one id of today."""

    def remember(count: int) -> None:
        rows = [f"m{number}" for number in range(count)]
        pillarbox.run(lambda store: store.inbox.record(CONSUMER, [*rows, row_of("order.placed", "o-1")]))
        age(pillarbox, "inbox", "processed_at", timedelta(days=40))
        pillarbox.run(lambda store: store.inbox.record(CONSUMER, ["today"]))

    return remember


@pytest.fixture
def program(pillarbox: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a program whose inbox has the settings given; returns how ``--app`` names it."""

    def program(settings: str) -> str:
        name = f"program_{abs(hash(settings))}"
        (tmp_path / f"{name}.py").write_text(PROGRAM.format(url=pillarbox.url, settings=settings))
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        return f"{name}:box"

    return program


def test_an_inbox_is_counted_with_what_a_purge_would_remove(pillarbox: Shell, remember: Callable[[int], None]) -> None:
    remember(2)

    (facts,) = pillarbox.json("inbox", "stats")
    assert (facts["consumer"], facts["ids"], facts["business_keys"], facts["removable"]) == (CONSUMER, 3, 1, 3)
    assert pillarbox.json("inbox", "stats", "--older-than", "50d")[0]["removable"] == 0
    assert "removable" in pillarbox.text("inbox", "stats")


def test_a_dry_run_counts_and_removes_nothing(pillarbox: Shell, remember: Callable[[int], None]) -> None:
    remember(2)

    assert pillarbox.json("inbox", "purge", "--dry-run") == {"would_purge": 3}
    assert "3 ids would be removed" in pillarbox.text("inbox", "purge", "--dry-run")
    assert pillarbox.json("inbox", "purge", "--older-than", "50d") == {"purged": 0}
    assert pillarbox.json("inbox", "stats")[0]["ids"] == 3


def test_a_purge_removes_what_is_old_in_batches(pillarbox: Shell, remember: Callable[[int], None]) -> None:
    remember(2_100)

    assert pillarbox.json("inbox", "purge") == {"purged": 2_101}
    assert pillarbox.json("inbox", "stats")[0]["ids"] == 1
    assert "0 ids are removed" in pillarbox.text("inbox", "purge", "--older-than", "1d")


def test_a_purge_ends_though_ids_grow_old_meanwhile(
    pillarbox: Shell, remember: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch finds what has grown old during the one before."""
    remember(2)
    purge = RelationalInboxStore.purge

    def one_at_a_time(self: RelationalInboxStore, older_than: timedelta, *, limit: int) -> Program[int]:
        return purge(self, older_than, limit=min(limit, 1))

    monkeypatch.setattr(RelationalInboxStore, "purge", one_at_a_time)

    assert pillarbox.json("inbox", "purge") == {"purged": 1}


def test_a_purge_shows_how_far_it_is_where_somebody_looks_on(
    pillarbox: Shell, remember: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(2)
    monkeypatch.setattr("pillarbox.cli.inbox.is_watched", lambda: True)

    done = pillarbox("inbox", "purge")

    assert (done.exit_code, "3 ids are removed" in done.stdout, "purging" in done.stderr) == (0, True, True)


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["really", "dry run"])
@pytest.mark.parametrize("younger", ["23h", "0s"])
def test_young_ids_are_not_purged(pillarbox: Shell, dry: tuple[str, ...], younger: str) -> None:
    done = pillarbox("inbox", "purge", "--older-than", younger, *dry)

    assert done.exit_code == 2
    assert "24 hours" in done.stderr


def test_a_program_says_for_how_long_ids_are_kept(
    pillarbox: Shell, remember: Callable[[int], None], program: Callable[..., str]
) -> None:
    remember(1)
    app = program("keep=timedelta(days=60)")

    assert '"would_purge": 0' in pillarbox("inbox", "purge", "--dry-run", "--json", "--app", app, store=False).output
    refused = pillarbox("inbox", "purge", "--older-than", "10d", "--app", app, store=False)
    assert (refused.exit_code, "336 hours" in refused.stderr) == (2, True), refused.output


def test_a_program_that_keeps_ids_for_ever_must_be_told(pillarbox: Shell, program: Callable[..., str]) -> None:
    done = pillarbox("inbox", "purge", "--app", program("keep=None"), store=False)

    assert (done.exit_code, "for ever" in done.stderr) == (2, True)


def test_a_letter_that_is_too_old_is_replayed_by_force_only(pillarbox: Shell, bury: Callable[..., None]) -> None:
    bury(message("m1"))
    age(pillarbox, "dead_letters", "last_failed_at", timedelta(days=15))

    refused = pillarbox("dead-letters", "replay", "1", "--by", "ann")
    assert (refused.exit_code, "--force" in refused.stderr) == (2, True)
    assert pillarbox.json("dead-letters", "list")[0]["state"] == "dead"

    assert pillarbox.json("dead-letters", "replay", "1", "--by", "ann", "--force")["replayed"] == [1]
