"""Each command on a database file: what it prints and what it changes."""

import json
from collections.abc import Callable
from datetime import timedelta

import pytest

from pillarbox.idempotency.calls import Answered
from pillarbox.outbox import record_of
from pillarbox.relational import CURRENT_VERSION
from tests.unit.cli.conftest import CONSUMER, Shell, message

Put = Callable[..., None]


def test_health_of_an_empty_database_is_ok(pillarbox: Shell) -> None:
    assert pillarbox.text("health").startswith("ok\n")
    assert pillarbox.json("health")["status"] == "ok"


def test_health_exits_with_1_when_records_wait_for_too_long(pillarbox: Shell) -> None:
    pillarbox.run(lambda store: store.outbox.append([record_of(message("m1"))]))

    done = pillarbox("health", "--oldest-pending", "0s", "--json")

    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert (told["status"], told["outbox"]["pending"]) == ("unhealthy", 1)
    assert told["outbox"]["oldest_for_s"] > 0
    assert pillarbox("health").exit_code == 0


def test_degraded_health_exits_with_1_only_when_strict(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1"))

    assert "degraded: 1 dead letters" in pillarbox.text("health")
    assert pillarbox("health", "--strict").exit_code == 1


def test_outbox_state_counts(pillarbox: Shell, park: Put) -> None:
    park(message("bad"))
    pillarbox.run(lambda store: store.outbox.append([record_of(message("m1"))]))

    told = pillarbox.json("outbox", "state")

    assert (told["pending"], told["parked"], told["held"]) == (1, 1, 0)
    assert "parked" in pillarbox.text("outbox", "state")


def test_parked_records_are_listed_without_bodies(pillarbox: Shell, park: Put) -> None:
    park(message("bad", body=b"a secret body"))

    (told,) = pillarbox.json("outbox", "parked")
    text = pillarbox.text("outbox", "parked")

    assert (told["message_id"], told["reason"], told["body_bytes"]) == ("bad", "too large", 13)
    assert "bad" in text
    assert "too large" in text
    assert "a secret body" not in text + json.dumps(told)


def test_a_parked_record_is_retried(pillarbox: Shell, park: Put) -> None:
    park(message("bad"))

    assert pillarbox.json("outbox", "retry", "bad") == {"retried": ["bad"], "released": 1}
    assert pillarbox.json("outbox", "state")["pending"] == 1


def test_all_parked_records_are_retried_a_key_at_a_time(pillarbox: Shell, park: Put) -> None:
    park(message("a1", "a"), message("a2", "a"), message("b1", "b"), message("n1", None), message("n2", None))

    told = pillarbox.json("outbox", "retry", "--all")

    assert told == {"retried": ["a1", "b1", "n1", "n2"], "released": 5}
    assert pillarbox.json("outbox", "parked") == []


def test_parked_records_of_one_key_may_be_named_together(pillarbox: Shell, park: Put) -> None:
    park(message("a1", "a"), message("a2", "a"), message("b1", "b"))

    told = pillarbox.json("outbox", "retry", "a1", "a2", "b1")

    assert told == {"retried": ["a1", "a2", "b1"], "released": 3}


def test_nothing_is_retried_when_one_that_is_named_is_not_parked(pillarbox: Shell, park: Put) -> None:
    park(message("a1", "a"))

    done = pillarbox("outbox", "retry", "a1", "gone")

    assert (done.exit_code, "there is no parked record 'gone'" in done.stderr) == (2, True)
    assert pillarbox.json("outbox", "state")["parked"] == 1


def test_retry_wants_to_know_what(pillarbox: Shell) -> None:
    assert pillarbox("outbox", "retry").exit_code == 2
    assert pillarbox("outbox", "retry", "m1", "--all").exit_code == 2


def test_a_skipped_record_is_kept_with_who_and_why(pillarbox: Shell, park: Put) -> None:
    park(message("bad"))

    told = pillarbox.json("outbox", "skip", "bad", "--reason", "sent by hand", "--by", "ann")

    assert told == {"skipped": "bad", "by": "ann", "reason": "sent by hand", "released": 0}
    assert kept(pillarbox) == ("skipped", "ann", "sent by hand", b"{}")


def test_skipping_without_a_reason_is_refused(pillarbox: Shell, park: Put) -> None:
    park(message("bad"))

    assert pillarbox("outbox", "skip", "bad").exit_code == 2
    assert pillarbox("outbox", "skip", "bad", "--reason", " ").exit_code == 2
    assert pillarbox.json("outbox", "state")["parked"] == 1


@pytest.mark.parametrize("verb", [("retry", "gone"), ("skip", "gone", "--reason", "x")])
def test_deciding_about_what_is_not_parked_is_an_error(pillarbox: Shell, verb: tuple[str, ...]) -> None:
    done = pillarbox("outbox", *verb)

    assert done.exit_code == 2
    assert "there is no parked record 'gone'" in done.stderr


def test_dead_letters_are_listed_by_filter(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1", "a"), message("m2", "b"))

    assert [letter["message_id"] for letter in pillarbox.json("dead-letters", "list")] == ["m1", "m2"]
    assert [letter["id"] for letter in pillarbox.json("dead-letters", "list", "--key", "b")] == [2]
    assert pillarbox.json("dead-letters", "list", "--type", "other") == []
    assert pillarbox.json("dead-letters", "list", "--state", "resolved") == []
    assert len(pillarbox.json("dead-letters", "list", "--state", "any", "--limit", "1")) == 1
    assert "m1" not in pillarbox.text("dead-letters", "list", "--consumer", "shop/other")


def test_a_dead_letter_is_shown_its_body_only_when_asked_for(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1", body=b'{"a": "b"}'))

    assert "body" not in pillarbox.json("dead-letters", "show", "1")
    assert pillarbox.json("dead-letters", "show", "1", "--body")["body"] == '{"a": "b"}'
    assert "Traceback" in pillarbox.text("dead-letters", "show", "1")


def test_a_body_that_is_no_text_is_shown_as_base64(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1", body=b"\xff\x00"))

    assert pillarbox.json("dead-letters", "show", "1", "--body")["body"] == "base64:/wA="


def test_passwords_in_stacks_are_masked(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1"))

    assert "s3cret" not in pillarbox.text("dead-letters", "show", "1")
    assert "s3cret" not in json.dumps(pillarbox.json("dead-letters", "show", "1"))


def test_control_characters_do_not_reach_the_terminal(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1", "k\x1b[2J"))

    assert "\x1b" not in pillarbox.text("dead-letters", "list")
    assert "\x1b" not in pillarbox.text("held", "list")
    assert "\x1b" not in pillarbox.text("dead-letters", "show", "1")


def test_square_brackets_are_printed_as_they_are(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1", "[red]k[/red]"))

    assert "[red]k[/red]" in pillarbox.text("dead-letters", "list")


def test_a_replayed_letter_is_due_again_for_its_consumer(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1"))

    assert pillarbox.json("dead-letters", "replay", "1", "--by", "ann") == {"replayed": [1], "by": "ann"}
    assert pillarbox.json("held", "list")[0] | {"since": "", "due_at": ""} == {
        "consumer": CONSUMER,
        "hold_key": "k:k",
        "state": "waiting",
        "messages": 1,
        "since": "",
        "due_at": "",
        "waits_for": [],
    }
    assert pillarbox("dead-letters", "replay", "1").exit_code == 2


def test_a_discarded_letter_blocks_nothing_any_more(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1"))

    why = ("--by", "ann", "--reason", "a test order")
    assert pillarbox.json("dead-letters", "discard", "1", *why) == {
        "discarded": 1,
        "by": "ann",
        "reason": "a test order",
    }

    assert pillarbox.json("held", "list")[0]["state"] == "waiting", "to be ended by whoever drains it"
    assert "no such dead letters" in pillarbox.text("dead-letters", "list")
    assert "discarded" in pillarbox.text("dead-letters", "list", "--state", "discarded")
    assert pillarbox("dead-letters", "discard", "1", *why).exit_code != 0


def test_held_keys_are_listed_by_consumer(pillarbox: Shell, bury: Put) -> None:
    bury(message("m1"))

    assert "blocked" in pillarbox.text("held", "list", "--consumer", CONSUMER)
    assert "no key is held" in pillarbox.text("held", "list", "--consumer", "shop/other")


def test_calls_in_doubt_are_listed_and_decided(pillarbox: Shell) -> None:
    assert pillarbox.text("calls", "list") == "no call is in doubt\n"
    for key in ("shop/charge:m1", "shop/charge:m2"):
        pillarbox.run(
            lambda store, key=key: store.calls.begin(key, token="gone", hold=timedelta(0), repeatable_for=None)  # type: ignore[misc]
        )

    assert [one["key"] for one in pillarbox.json("calls", "list")] == ["shop/charge:m1", "shop/charge:m2"]
    assert "shop/charge:m2" in pillarbox.text("calls", "list")
    assert "is stored" in pillarbox.text("calls", "record", "shop/charge:m1", '{"number": "r-1"}')
    assert "called anew" in pillarbox.text("calls", "allow", "shop/charge:m2")

    assert pillarbox.json("calls", "list") == []
    assert pillarbox("calls", "allow", "shop/charge:m1").exit_code == 2
    assert "is no JSON" in pillarbox("calls", "record", "shop/charge:m1", "r-1").output
    assert "is stored" in pillarbox.text("calls", "record", "--instead", "shop/charge:m1", '{"number": "r-2"}')
    assert "no call with an answer" in pillarbox("calls", "record", "--instead", "shop/charge:m2", "2").output
    (stored,) = pillarbox.run(
        lambda store: store.calls.begin("shop/charge:m1", token="t", hold=timedelta(0), repeatable_for=None)
    )
    assert stored == Answered(b'{"number":"r-2"}')


def test_migrating_twice_changes_nothing(pillarbox: Shell) -> None:
    told = pillarbox.json("migrate")

    assert (told["applied"], told["version"]) == ([], CURRENT_VERSION)


def test_the_schema_is_printed_and_nothing_is_connected_to(pillarbox: Shell) -> None:
    script = pillarbox("migrate", "--sql", "--store", "postgresql://shop:hunter2@nowhere/shop", store=False)

    assert script.exit_code == 0, script.output
    assert "CREATE TABLE IF NOT EXISTS pillarbox_outbox" in script.output
    assert "hunter2" not in script.output


def kept(pillarbox: Shell) -> tuple[object, ...]:
    """Return what the row of the only skipped record says."""
    import sqlite3

    connection = sqlite3.connect(pillarbox.url.removeprefix("sqlite:///"))
    try:
        query = "SELECT state, skipped_by, skipped_because, payload FROM pillarbox_outbox_held WHERE skipped_at > 0"
        (row,) = connection.execute(query).fetchall()
    finally:
        connection.close()
    return tuple(row)
