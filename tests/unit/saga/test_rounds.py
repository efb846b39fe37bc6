"""What was refused and is tried again by an operator is asked for in a new round; answers to earlier ones are late."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from datetime import timedelta
from hashlib import sha256
from hmac import digest

import msgspec
import pytest
from msgspec.structs import replace

from pillarbox.saga.definition import STEP_RETRY, Kind
from pillarbox.saga.happening import Cancelled, Failed, Happening, Refused, Retried, Sent, Succeeded
from pillarbox.saga.journal import ActState, Arrived, Journal, SagaStatus, decode_journal, encode_journal
from pillarbox.saga.token import Awaited, is_genuine, read_token, signed
from tests.unit.saga.stage import DO, SECOND_US, UNDO, OneAct, OneStep, Stages

LATER = 5 * SECOND_US
AGAIN = Retried(reason="the carrier has mended it")
ASKED = Sent(step="ship", direction=DO, attempt=1)
SHAPE = Stages.of(
    OneStep("charge", OneAct(Kind.LOCAL), OneAct(Kind.LOCAL), pivot=True),
    OneStep("ship", OneAct(Kind.REQUEST, timeout=timedelta(seconds=1)), OneAct(Kind.REQUEST)),
    OneStep("thank", OneAct(Kind.LOCAL)),
)


def done(round_: int = 0) -> Succeeded:
    return Succeeded(step="ship", direction=DO, attempt=1, round=round_)


def no(round_: int = 0) -> Refused:
    return Refused(step="ship", direction=DO, attempt=1, round=round_, error="no carrier goes there")


def unreadable(round_: int = 0) -> Failed:
    return Failed(step="ship", direction=DO, attempt=1, round=round_, error="no reply that is awaited", maybe=True)


def shipping(*happenings: Happening) -> Journal:
    """Return the journal of a saga past its pivot that has asked for the shipping."""
    return SHAPE.after(Journal(), Succeeded(step="charge", direction=DO, attempt=1), ASKED, *happenings)


def test_what_was_refused_is_tried_again_in_a_new_round() -> None:
    refused = shipping(no())
    assert refused.status is SagaStatus.NEEDS_ATTENTION

    for round_ in (1, 2):
        journal = SHAPE.observed(refused, AGAIN)
        (act,) = SHAPE.planned(journal).acts
        assert (act.step, act.attempt, act.round) == ("ship", 1, round_)
        journal = SHAPE.after(journal, ASKED)
        assert journal.do["ship"].round == round_, "what is sent is awaited in the round that it is of"
        refused = SHAPE.after(journal, no(round_))
        assert refused.do["ship"].state is ActState.FAILED

    completed = SHAPE.after(SHAPE.observed(refused, AGAIN), ASKED, done(3))
    assert [act.step for act in SHAPE.planned(completed).acts] == ["thank"]


def test_what_may_have_happened_is_asked_for_in_the_same_round_until_it_is_refused() -> None:
    """Its answer may be on its way; whoever was asked gives the one that is kept, to every attempt of the round."""
    overdue = SHAPE.planned(shipping(), at_us=LATER).journal
    assert overdue.do["ship"].state is ActState.UNKNOWN

    (act,) = SHAPE.planned(SHAPE.observed(overdue, AGAIN, at_us=LATER), at_us=LATER).acts
    refused = SHAPE.after(SHAPE.observed(overdue, AGAIN, at_us=LATER), ASKED, no(), at_us=LATER)
    (again,) = SHAPE.planned(SHAPE.observed(refused, AGAIN, at_us=LATER), at_us=LATER).acts

    assert (act.round, refused.do["ship"].state, again.round) == (0, ActState.UNKNOWN, 1)


def test_a_call_that_may_have_happened_stays_in_its_round_though_it_is_refused_later() -> None:
    """Whoever is called keeps no promise about what was asked before."""
    shape = Stages.of(
        OneStep("charge", OneAct(Kind.LOCAL), pivot=True), OneStep("call", OneAct(Kind.OUTSIDE, STEP_RETRY))
    )
    cut = Failed(step="call", direction=DO, attempt=1, error="the line was cut", maybe=True)
    declined = Refused(step="call", direction=DO, attempt=2, error="declined")

    journal = shape.after(Journal(), Succeeded(step="charge", direction=DO, attempt=1), cut)
    journal = shape.planned(journal, at_us=LATER).journal
    refused = shape.after(journal, declined, at_us=LATER)
    (act,) = shape.planned(shape.observed(refused, AGAIN, at_us=LATER), at_us=LATER).acts

    assert (refused.do["call"].state, act.round) == (ActState.UNKNOWN, 0)


def test_what_only_waited_for_its_next_attempt_when_the_saga_stopped_was_not_refused() -> None:
    ship = OneStep("ship", OneAct(Kind.REQUEST, STEP_RETRY, timedelta(seconds=1)))
    shape = Stages(((OneStep("charge", OneAct(Kind.LOCAL), pivot=True),), (ship, OneStep("thank", OneAct(Kind.LOCAL)))))
    journal = shape.after(Journal(), Succeeded(step="charge", direction=DO, attempt=1), ASKED)
    journal = shape.planned(journal, at_us=2 * SECOND_US).journal
    assert journal.do["ship"].state is ActState.RETRY

    refused = Refused(step="thank", direction=DO, attempt=1, error="nobody there")
    journal = shape.after(journal, refused, at_us=2 * SECOND_US)
    acts = shape.planned(shape.observed(journal, AGAIN, at_us=LATER), at_us=LATER).acts

    assert journal.status is SagaStatus.NEEDS_ATTENTION
    assert [(act.step, act.round) for act in acts] == [("ship", 0), ("thank", 1)]


def test_a_retry_that_only_hastens_begins_no_round() -> None:
    shape = Stages.of(OneStep("call", OneAct(Kind.OUTSIDE)))
    journal = shape.planned(Journal()).journal
    waiting = replace(journal.do["call"], state=ActState.RETRY, due_us=LATER)

    (act,) = shape.planned(shape.observed(replace(journal, do={"call": waiting}), AGAIN)).acts

    assert (act.attempt, act.round) == (2, 0)


def test_a_later_round_that_is_not_answered_in_time_may_have_happened() -> None:
    asked = SHAPE.after(SHAPE.observed(shipping(no()), AGAIN), ASKED)

    journal = SHAPE.planned(asked, at_us=LATER).journal

    assert (journal.do["ship"].state, journal.do["ship"].round) == (ActState.UNKNOWN, 1)


@pytest.mark.parametrize("late", [done(), no(), unreadable()], ids=["done", "refused", "failed"])
def test_an_answer_to_an_earlier_round_moves_nothing(late: Happening) -> None:
    waiting = SHAPE.after(SHAPE.observed(shipping(no()), AGAIN), ASKED)

    journal = SHAPE.after(waiting, late)

    assert journal.do["ship"].state is ActState.SENT
    assert journal.history[-1].what.endswith(" late")
    assert [act.step for act in SHAPE.planned(SHAPE.after(journal, done(1))).acts] == ["thank"]


@pytest.mark.parametrize("comes", ["before the new answer", "after it"])
def test_what_was_done_in_an_earlier_round_after_all_is_undone(comes: str) -> None:
    waiting = SHAPE.after(SHAPE.observed(shipping(no()), AGAIN), ASKED)
    answers: list[Happening] = [done(0), no(1)] if comes == "before the new answer" else [no(1), done(0)]

    journal = SHAPE.after(waiting, *answers)
    assert (journal.status, journal.do["ship"].state) == (SagaStatus.NEEDS_ATTENTION, ActState.UNKNOWN)
    journal = SHAPE.after(journal, Cancelled(reason="nobody ships it", forced=True))

    assert [(act.step, act.direction) for act in SHAPE.planned(journal).acts] == [("ship", UNDO)]


def test_what_was_refused_and_done_after_all_is_asked_for_in_the_round_that_did_it() -> None:
    """There the answer is kept that it was done; a later round would do it twice."""
    journal = shipping(no(), done())
    assert journal.do["ship"].state is ActState.UNKNOWN

    (act,) = SHAPE.planned(SHAPE.observed(journal, AGAIN)).acts

    assert act.round == 0


def test_what_only_an_earlier_round_refuses_is_not_undone() -> None:
    waiting = SHAPE.after(SHAPE.observed(shipping(no()), AGAIN), ASKED)

    journal = SHAPE.after(waiting, no(0), no(1), Cancelled(reason="nobody ships it", forced=True))

    assert [(act.step, act.direction) for act in SHAPE.planned(journal).acts] == [("charge", UNDO)]


def test_an_undoing_that_is_tried_again_is_asked_for_in_the_first_round() -> None:
    forced = Cancelled(reason="nobody ships it", forced=True)
    undoing = SHAPE.after(shipping(done()), Succeeded(step="thank", direction=DO, attempt=1), forced)
    unclear = Failed(step="ship", direction=UNDO, attempt=1, error="no reply that is awaited", maybe=True)
    given_up = SHAPE.after(undoing, Sent(step="ship", direction=UNDO, attempt=1), unclear)

    (act,) = SHAPE.planned(SHAPE.after(given_up, Succeeded(step="charge", direction=UNDO), AGAIN)).acts

    assert (act.step, act.direction, act.attempt, act.round) == ("ship", UNDO, 1, 0)


def test_a_child_that_ends_once_more_does_not_end_the_one_after_it() -> None:
    """One that was compensated may be undone further, when a step of its own turns out to have been done."""
    shape = Stages.of(
        OneStep("charge", OneAct(Kind.LOCAL), pivot=True), OneStep("ship", OneAct(Kind.CHILD), OneAct(Kind.CHILD))
    )
    started = Sent(step="ship", direction=DO, attempt=1, token="o-1.ship")
    refused = shape.after(Journal(), Succeeded(step="charge", direction=DO, attempt=1), started, no())
    second = shape.after(shape.observed(refused, AGAIN), replace(started, token="o-1.ship.2"))

    journal = shape.after(second, no(0))

    assert (journal.status, journal.do["ship"].state) == (SagaStatus.RUNNING, ActState.SENT)
    assert shape.after(journal, done(1)).status is SagaStatus.COMPLETED


# --- what is kept and sent ---


def test_what_was_kept_before_there_were_rounds_is_of_the_first_one() -> None:
    kept = (
        b'{"do":{"ship":{"state":"failed","attempts":1,"place":1}},"status":"needs_attention","beyond":true,'
        b'"arrived":[{"step":"ship","direction":"do","attempt":1,"type":"t","version":1,"content_type":"c","body":"b"}]}'
    )

    journal = decode_journal(kept)

    assert (journal.do["ship"].round, journal.arrived[0].round) == (0, 0)
    assert b"round" not in encode_journal(journal)
    assert SHAPE.after(SHAPE.observed(journal, AGAIN), ASKED, no()).do["ship"].round == 1


def test_a_round_is_kept() -> None:
    arrived = Arrived(step="s", direction=DO, attempt=1, round=2, type="t", version=1, content_type="c", body="b")
    journal = replace(SHAPE.observed(shipping(no()), AGAIN), arrived=(arrived,))

    assert decode_journal(encode_journal(journal)) == journal


def test_the_token_of_a_first_round_is_what_it_was_before_there_were_rounds() -> None:
    first = ("shop/fulfil", "o-1", "ship", "do", 1)
    encode = msgspec.json.encode
    before = urlsafe_b64encode(encode([first, digest(b"secret", encode(first), sha256)[:16]])).decode()

    act, signature = read_token(before)

    assert act == Awaited("shop/fulfil", "o-1", "ship", DO, 1)
    assert is_genuine(act, signature, "secret")
    assert signed(act, "secret") == before


def test_the_round_is_signed() -> None:
    act = Awaited("shop/fulfil", "o-1", "ship", DO, 1, 2)

    found, signature = read_token(signed(act, "secret"))

    assert found == act
    assert is_genuine(act, signature, "secret")
    for other in (0, 1, 3):
        assert not is_genuine(replace(act, round=other), signature, "secret")
    assert act.request == replace(act, round=0).request, "do and undo of all rounds share one row"
