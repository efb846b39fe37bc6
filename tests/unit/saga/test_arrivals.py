"""A reply whose reaction failed since something was away is looked at again; what it answers waits for that."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pillarbox.retry import Failure
from pillarbox.saga.arrivals import REACTION_RETRY, kept_for_others, next_look, put_off, taken
from pillarbox.saga.happening import Moment
from pillarbox.saga.journal import ActState, Arrived, Direction, Journal, Progress, decode_journal, encode_journal

NOW_US = 1_000_000
NOW = Moment(now_us=NOW_US)
AWAY = Failure(kind="transient")
REPLY = Arrived(
    step="ship", direction=Direction.DO, attempt=1, type="shipped", version=1, content_type="json", body="{}"
)


def sent(due_us: int | None) -> Journal:
    """A saga that waits for a reply, until ``due_us``."""
    return Journal(do={"ship": Progress(state=ActState.SENT, attempts=1, due_us=due_us)})


def put(journal: Journal, reply: Arrived = REPLY, failure: Failure = AWAY, moment: Moment = NOW) -> Journal | None:
    return put_off(journal, reply, failure, moment, error="it is away")


def test_a_reply_that_was_put_off_is_looked_at_when_it_is_due_and_not_before() -> None:
    first = put(sent(None))
    assert first is not None
    (at_once,), nothing = taken(first, NOW)
    second = put(nothing, at_once)
    assert second is not None

    due_us = next_look(second, None)

    assert due_us is not None
    assert due_us > NOW_US
    assert taken(second, NOW) == ((), second)
    (again,), left = taken(second, Moment(now_us=due_us))
    assert (again.failures, left.arrived) == (2, ())
    assert [entry.what for entry in left.history] == ["failed", "failed"]


def test_what_it_answers_is_not_given_up_meanwhile() -> None:
    reply = Arrived(**{name: getattr(REPLY, name) for name in REPLY.__struct_fields__} | {"failures": 3})

    soon, late = put(sent(NOW_US + 1), reply), put(sent(NOW_US + 10**12), reply)

    assert soon is not None
    assert late is not None
    assert soon.do["ship"].due_us == soon.arrived[0].due_us
    assert late.do["ship"].due_us == NOW_US + 10**12
    assert next_look(late, late.do["ship"].due_us) == late.arrived[0].due_us


@pytest.mark.parametrize("kind", ["permanent", "unknown"])
def test_of_another_failure_the_reply_is_not_kept(kind: str) -> None:
    assert put(sent(None), failure=Failure(kind=kind)) is None  # type: ignore[arg-type]


def test_it_is_given_up_after_so_many_failures() -> None:
    journal, failures = put(sent(None)), 0
    while journal is not None:
        failures += 1
        (reply,), journal = taken(journal, Moment(now_us=NOW_US + timedelta(days=1) // timedelta(microseconds=1)))
        journal = put(journal, reply)

    assert failures + 1 == REACTION_RETRY.attempts


def test_an_older_journal_is_read_and_what_is_kept_is_read_back() -> None:
    journal = put(Journal(arrived=(REPLY,)))
    assert journal is not None

    assert b'"failures"' not in encode_journal(Journal(arrived=(REPLY,)))
    assert decode_journal(encode_journal(journal)) == journal


def test_a_reply_that_is_not_known_here_is_kept_until_what_it_answers_is_given_up_anyway() -> None:
    due_us = NOW_US + 1_500_000
    first = kept_for_others(sent(due_us), REPLY, NOW, error="it is no reply that the step awaits")
    assert first is not None
    again_us = next_look(first, due_us)
    assert again_us is not None
    assert NOW_US < again_us < due_us
    (again,), left = taken(first, Moment(now_us=again_us))

    second = kept_for_others(left, again, Moment(now_us=again_us), error="it is no reply that the step awaits")

    assert second is not None
    assert next_look(second, due_us) == due_us
    (last,), left = taken(second, Moment(now_us=due_us))
    assert kept_for_others(left, last, Moment(now_us=due_us), error="") is None
    assert last.failures == 0, "its reaction was never called"
    assert [entry.what for entry in left.history] == ["not known here"]


@pytest.mark.parametrize("state", [ActState.DONE, ActState.FAILED, ActState.UNKNOWN])
def test_a_reply_that_is_not_known_here_is_not_kept_for_what_has_ended(state: ActState) -> None:
    ended = Journal(do={"ship": Progress(state=state, attempts=1, due_us=NOW_US + 1_000_000)})

    assert kept_for_others(ended, REPLY, NOW, error="") is None
