"""Purging and republishing on the command line: what it refuses, prints and changes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from pillarbox.outbox import record_of
from pillarbox.relational import RelationalStore
from pillarbox.transaction import Program
from tests.unit.cli.conftest import RELAY, Shell, message

Keep = Callable[..., None]
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).isoformat()
WHY = ("--reason", "the broker was restored from yesterday")


@pytest.fixture
def keep(pillarbox: Shell) -> Keep:
    """Publishes and keeps messages of the ids given."""

    def keep(*identities: str) -> None:
        def keeping(store: RelationalStore) -> Program[None]:
            yield from store.outbox.append([record_of(message(one)) for one in identities])
            tokens = (yield from store.leases.heartbeat(RELAY, "test")).tokens
            positions = list(range(1, len(identities) + 1))
            kept = yield from store.slots.settle_and_keep("relay", list(tokens.values()), positions)
            assert kept == len(identities)

        pillarbox.run(keeping)

    return keep


def test_kept_records_are_republished(pillarbox: Shell, keep: Keep) -> None:
    keep("m1", "m2")

    counted = pillarbox.json("outbox", "republish", "--since", YESTERDAY, "--dry-run", *WHY)
    assert counted["would_republish"] == 2
    told = pillarbox.json("outbox", "republish", "--since", YESTERDAY, "--by", "ann", *WHY)

    assert (told["republished"], told["by"]) == (2, "ann")
    assert pillarbox.json("outbox", "state")["pending"] == 2
    again = pillarbox("outbox", "republish", "--since", YESTERDAY, *WHY)
    assert again.exit_code != 0
    assert "RelaySettings(keep=" in again.stderr


def test_it_says_how_to_go_on_when_it_is_interrupted(pillarbox: Shell, keep: Keep) -> None:
    keep("m1")

    done = pillarbox("outbox", "republish", "--since", YESTERDAY, *WHY)

    assert "--until 2" in done.stderr
    assert "1 records will be published again" in done.stdout


def test_records_are_chosen_by_type_key_and_destination(pillarbox: Shell, keep: Keep) -> None:
    keep("m1")

    for option, value, expected in (("--type", "other", 0), ("--key", "k", 1), ("--destination", "topic:order", 1)):
        told = pillarbox.json("outbox", "republish", "--since", YESTERDAY, option, value, "--dry-run", *WHY)
        assert told["would_republish"] == expected


@pytest.mark.parametrize("since", ["yesterday", "2031-05-17T08:00:00", "0001-01-01T00:00:00+14:00"])
def test_an_instant_needs_its_form_and_time_zone(pillarbox: Shell, since: str) -> None:
    assert pillarbox("outbox", "republish", "--since", since, *WHY).exit_code == 2


def test_somebody_decides(pillarbox: Shell, keep: Keep) -> None:
    keep("m1")

    refused = pillarbox("outbox", "republish", "--since", YESTERDAY, "--by", " ", *WHY)

    assert (refused.exit_code, "--by must name somebody" in refused.stderr) == (2, True)
    assert pillarbox.json("outbox", "state")["pending"] == 0


def test_old_kept_records_are_purged(pillarbox: Shell, keep: Keep) -> None:
    keep("m1", "m2")

    assert pillarbox.json("outbox", "purge", "--older-than", "1h", "--dry-run")["would_purge"] == 0
    assert pillarbox.json("outbox", "purge", "--older-than", "0s", "--dry-run")["would_purge"] == 2
    assert pillarbox.json("outbox", "purge", "--older-than", "0s")["purged"] == 2
    assert "0 published records are removed" in pillarbox.text("outbox", "purge", "--older-than", "0s")


def test_without_a_program_the_age_must_be_given(pillarbox: Shell) -> None:
    assert pillarbox("outbox", "purge").exit_code == 2
