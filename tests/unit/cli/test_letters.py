"""The commands that work with dead letters and held keys."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pillarbox.audit import Act
from pillarbox.holding import FailedAttempt, HeldMessage, HeldState, Hold
from pillarbox.relational import RelationalStore
from pillarbox.transaction import Program
from tests.unit.cli.conftest import CONSUMER, Shell, message

Put = Callable[..., None]
WHY = ("--reason", "counted by hand", "--by", "ann")
HOUR = timedelta(hours=1)
FAILED = (FailedAttempt(attempt=1, at=datetime(2026, 1, 1, tzinfo=UTC), error_type="ValueError", error="no"),)


def test_statistics_and_groups_count_letters(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1", "a"), message("m2", "b"))

    (count,) = pillarbox.json("dead-letters", "stats")
    (group,) = pillarbox.json("dead-letters", "groups")

    assert (count["consumer"], count["state"], count["reason"], count["count"]) == (CONSUMER, "dead", "exhausted", 2)
    assert (group["fingerprint"], group["dead"], group["state"]) == ("f1", 2, "open")
    assert "exhausted" in pillarbox.text("dead-letters", "stats")
    assert "f1" in pillarbox.text("dead-letters", "groups", "--consumer", CONSUMER)
    assert "no such groups" in pillarbox.text("dead-letters", "groups", "--state", "ignored")


def test_a_cause_that_comes_back_says_so(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1", "a"))
    assert pillarbox.json("dead-letters", "group", "resolve", "f1", "--note", "in 1.2", "--by", "ann")["groups"] == 1
    bury(message("m2", "b"))

    assert "open, came back" in pillarbox.text("dead-letters", "groups")
    assert "noted about 1 group" in pillarbox.text("dead-letters", "group", "note", "f1", "--note", "again")
    assert pillarbox.json("dead-letters", "groups")[0]["note"] == "again"
    assert pillarbox("dead-letters", "group", "note", "f1").exit_code == 2
    assert "no group" in pillarbox("dead-letters", "group", "ignore", "f9").stderr


def test_letters_are_found_by_age_reason_and_text(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1"))

    assert len(pillarbox.json("dead-letters", "list", "--since", "1h", "--why", "exhausted")) == 1
    assert pillarbox.json("dead-letters", "list", "--until", "1h") == []
    assert pillarbox.json("dead-letters", "list", "--since", "2031-05-17T08:00:00Z") == []
    assert pillarbox.json("dead-letters", "list", "--text", "nothing") == []
    assert pillarbox("dead-letters", "list", "--since", "yesterday").exit_code == 2


@pytest.mark.parametrize("share", ["nan", "-0.1", "1.1"])
def test_a_share_that_is_none_is_refused(pillarbox: Shell, share: str) -> None:
    refused = pillarbox("dead-letters", "replay-all", "--stop-at", share, "--dry-run")

    assert refused.exit_code == 2
    assert "--stop-at" in refused.stderr


def test_what_force_insists_on_is_said_by_both_commands(pillarbox: Shell) -> None:
    for command in ("replay", "replay-all"):
        assert "the inbox is sure to remember" in " ".join(pillarbox.text("dead-letters", command, "--help").split())


def test_header_values_are_shown_only_when_asked_for(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1"))

    assert pillarbox.json("dead-letters", "list")[0]["headers"] == ["source"]
    assert pillarbox.json("dead-letters", "show", "1")["headers"] == ["source"]
    assert pillarbox.json("dead-letters", "show", "1", "--headers")["headers"] == {"source": "shop"}


def test_a_discarded_letter_frees_its_key_and_is_purged_later(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1"))

    assert pillarbox("dead-letters", "discard", "1").exit_code == 2
    assert pillarbox("dead-letters", "discard", "1", "--reason", " ").exit_code == 2
    assert pillarbox.json("dead-letters", "discard", "1", *WHY)["discarded"] == 1
    assert pillarbox.json("held", "list")[0]["state"] == "waiting"
    assert "discard by ann" in pillarbox.text("dead-letters", "show", "1")
    assert pillarbox("dead-letters", "discard", "1", *WHY).exit_code == 2
    assert pillarbox.json("dead-letters", "purge", "--older-than", "1d") == {"purged": 0, "purged_acts": 0}
    assert "1 letters are removed" in pillarbox.text("dead-letters", "purge", "--older-than", "0s")


def test_dead_letters_are_never_purged(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1"))

    assert pillarbox.json("dead-letters", "purge", "--older-than", "0s")["purged"] == 0


def test_a_purge_takes_runs_without_letters_with_it_and_acts_only_when_asked(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1", "a"), message("m2", "b"))
    ended = pillarbox.json("dead-letters", "replay-all", "--key", "a", "--detach", "--by", "ann")["run"]
    pillarbox.text("dead-letters", "runs", ended, "--cancel", "enough", "--by", "ann")
    still_open = pillarbox.json("dead-letters", "replay-all", "--key", "b", "--detach", "--by", "ann")["run"]

    assert pillarbox.json("dead-letters", "purge", "--older-than", "0s", "--by", "bob")["purged"] == 0
    assert runs(pillarbox) == {ended, still_open}, "their letters are dead"
    for letter in ("1", "2"):
        pillarbox.text("dead-letters", "discard", letter, *WHY)
    assert pillarbox.json("dead-letters", "purge", "--older-than", "0s", "--by", "bob")["purged"] == 2
    assert runs(pillarbox) == {still_open}
    assert [(one.what, one.by, one.details) for one in acts(pillarbox, "replay run", ended)][2:] == [
        ("purge", "bob", {"pending": 1})
    ]

    assert pillarbox("dead-letters", "purge").exit_code == 2
    assert pillarbox.json("dead-letters", "purge", "--acts-older-than", "1d")["purged_acts"] == 0
    assert "6 acts are removed" in pillarbox.text("dead-letters", "purge", "--acts-older-than", "0s", "--by", "bob")
    assert [(one.kind, one.what, one.by) for one in acts(pillarbox)] == [
        ("replay run", "replay-all", "ann"),
        ("acts", "purge", "bob"),
    ]


def runs(pillarbox: Shell) -> set[str]:
    return {one["run"] for one in pillarbox.json("dead-letters", "runs")}


def acts(pillarbox: Shell, kind: str | None = None, subject: str | None = None) -> list[Act]:
    (found,) = pillarbox.run(lambda store: store.operators.acts.find(kind=kind, subject=subject))
    return [one.act for one in found]


def test_a_letter_is_edited_by_a_patch_or_a_file(pillarbox: Shell, bury: Put, tmp_path: Path) -> None:
    bury(message("m1", body=b'{"a": 1, "b": 2}'))
    file = tmp_path / "body"
    file.write_bytes(b"\xff")

    told = pillarbox.json("dead-letters", "edit", "1", "--patch", '{"a": null, "b": 3}', *WHY)
    assert told["changed"] == ["/a", "/b"]
    assert pillarbox.json("dead-letters", "show", "1", "--body")["body"] == '{"b":3}'
    assert "/b: 2 -> 3" in pillarbox.text("dead-letters", "show", "1", "--body")
    assert "its bytes" in pillarbox.text("dead-letters", "edit", "1", "--body", str(file), *WHY)
    shown = pillarbox.json("dead-letters", "show", "1", "--body")
    assert shown["edits"][0]["before"] == '{"a": 1, "b": 2}'
    assert shown["body"].startswith("base64:")


@pytest.mark.parametrize("how", [(), ("--patch", "{}", "--body", "-"), ("--patch", "[1]"), ("--patch", "{")])
def test_an_edit_that_makes_no_sense_is_refused(pillarbox: Shell, bury: Put, how: tuple[str, ...]) -> None:
    bury(message("m1"))

    assert pillarbox("dead-letters", "edit", "1", *how, *WHY).exit_code == 2


def test_a_dry_run_counts_and_changes_nothing(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1", "a"), message("m2", "b"))

    assert pillarbox.json("dead-letters", "replay-all", "--key", "a", "--dry-run") == {
        "would_replay": 1,
        "would_pass_by": 0,
    }
    assert "2 letters would be replayed" in pillarbox.text("dead-letters", "replay-all", "--dry-run")
    assert pillarbox.json("dead-letters", "runs") == []


def test_a_letter_that_a_run_replayed_shows_whose_run_it_was(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1", "a"), message("m2", "b"))
    run = pillarbox.json("dead-letters", "replay-all", "--detach", "--by", "ann")["run"]

    def take_one(store: RelationalStore) -> Program[None]:
        taken = yield from store.operators.batches.take(run, after=0, at_most=1)
        assert taken is not None
        yield from store.operators.batches.hold(taken)
        yield from store.operators.batches.enqueue(taken)

    pillarbox.run(take_one)
    pillarbox.text("dead-letters", "runs", run, "--cancel", "enough")

    (act,) = pillarbox.json("dead-letters", "show", "1")["acts"]
    assert (act["by"], act["what"], act["run"]) == ("ann", "replay-all", run)
    assert f"replay-all (replay run {run}) by ann at " in pillarbox.text("dead-letters", "show", "1")
    assert pillarbox.json("dead-letters", "show", "2")["acts"] == [], "its turn has not come"
    pillarbox.text("dead-letters", "edit", "2", "--patch", '{"a": 1}', *WHY)
    (edit,) = pillarbox.json("dead-letters", "show", "2")["acts"]
    assert (edit["what"], "run" in edit) == ("edit", False)


def test_a_run_is_made_shown_and_cancelled(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1", "a"), message("m2", "b"))

    made = pillarbox.json("dead-letters", "replay-all", "--rate", "5", "--canary", "1", "--detach", "--by", "ann")
    assert (made["state"], made["letters"], made["pending"], made["rate"]) == ("open", 2, 2, 5)
    assert made["run"] in pillarbox.text("dead-letters", "runs", "--open")
    assert pillarbox.json("dead-letters", "runs", made["run"], "--cancel", "no")["state"] == "cancelled"
    assert "no replay runs" in pillarbox.text("dead-letters", "runs", "--open")
    assert pillarbox("dead-letters", "runs", made["run"], "--cancel", "no").exit_code == 2
    assert pillarbox("dead-letters", "runs", "--follow").exit_code == 2
    assert "cancelled" in pillarbox.text("dead-letters", "runs", made["run"])


def test_the_command_works_a_run_off_itself(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1", "a"), message("m2", "b"))
    made = pillarbox.json("dead-letters", "replay-all", "--detach")
    for identity in (1, 2):
        assert pillarbox("dead-letters", "discard", str(identity), *WHY).exit_code == 0

    done = pillarbox.json("dead-letters", "runs", made["run"], "--follow")

    assert (done["state"], done["passed"]) == ("finished", 2)


def test_a_held_key_is_released(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1"))

    assert "goes on" in pillarbox.text("held", "release", CONSUMER, "k:k", *WHY)
    assert {(one["hold_key"], one["state"]) for one in pillarbox.json("held", "list")} == {
        ("k:k", "waiting"),
        ("m:m1", "blocked"),
    }
    assert "nothing waits behind" in pillarbox("held", "release", CONSUMER, "m:m1", *WHY).stderr
    assert "no held key" in pillarbox("held", "release", CONSUMER, "k:other", *WHY).stderr


def test_what_a_held_key_waits_for_is_skipped(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1"))

    assert pillarbox.json("held", "skip", CONSUMER, "k:k", *WHY)["skipped"] == 1
    assert pillarbox.json("dead-letters", "list", "--state", "discarded")[0]["id"] == 1
    assert "goes on by itself" in pillarbox("held", "skip", CONSUMER, "k:k", *WHY).stderr
    assert pillarbox("held", "skip", CONSUMER, "k:k", "--reason", "").exit_code == 2


@pytest.mark.parametrize("history", [FAILED, ()], ids=["failed", "waits for its cause"])
def test_what_came_to_the_head_of_its_key_and_waits_there_is_skipped(
    pillarbox: Shell, history: tuple[FailedAttempt, ...]
) -> None:
    _put_at_the_head(pillarbox, due_in=HOUR, history=history)

    assert pillarbox.json("held", "skip", CONSUMER, "k:k", *WHY)["skipped"] == 1
    assert pillarbox.json("dead-letters", "list", "--state", "discarded")[0]["message_id"] == "m2"


def test_what_has_come_to_the_head_of_its_key_just_now_is_not_skipped(pillarbox: Shell) -> None:
    _put_at_the_head(pillarbox, due_in=timedelta(0), history=())

    assert "goes on by itself" in pillarbox("held", "skip", CONSUMER, "k:k", *WHY).stderr


def _put_at_the_head(pillarbox: Shell, *, due_in: timedelta, history: tuple[FailedAttempt, ...]) -> None:
    """Hold a key whose first message went away; its second was held behind it, and has been tried if there is one."""
    waiting = HeldMessage(hold_key="k:k", message=message("m2"), state=HeldState.HELD)
    again = HeldMessage(
        hold_key="k:k",
        message=waiting.message,
        state=HeldState.HELD,
        attempts=len(history),
        due_in=due_in,
        history=history,
    )

    def put(store: RelationalStore) -> Program[None]:
        yield from store.holding.hold(CONSUMER, [Hold(hold_key="k:k", due_in=due_in)])
        yield from store.holding.append(CONSUMER, [waiting])
        yield from store.holding.reschedule(CONSUMER, [again])

    pillarbox.run(put)
