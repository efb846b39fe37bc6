"""The course of a run: what is handled, retried, dead, suppressed, and how attempts are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from pillarbox.consumer.effects import Raised, Returned, RunSpoiled
from pillarbox.consumer.gate import OpenGate
from pillarbox.consumer.item import Item
from pillarbox.errors import (
    ConflictError,
    DecodeError,
    InvalidReturnError,
    MissingBusinessKeyError,
    PermanentError,
    ThrottledError,
    UnknownMessageTypeError,
)
from pillarbox.message import Message
from pillarbox.retry import GiveUp, Retry, RetryLater, RetryNow
from pillarbox.transaction import Program
from tests.unit.consumer.scripted import StockReserved, fails, ids, item, returns, stage

ONCE = Retry(attempts=1)
LATER = Retry(attempts=3, immediate=0, first=timedelta(seconds=2))


def test_what_is_handled_is_recorded_cleared_and_accepted() -> None:
    scene = stage()
    scene.attempts.under_way = {"m1", "m2"}

    report = scene.run([item("m1", key="a"), item("m2", key="b")], returns())

    assert ids(report.handled) == ["m1", "m2"]
    assert scene.inbox.ids == {"m1", "m2"}
    assert scene.attempts.under_way == set()
    assert scene.intake.accepted == scene.intake.done == ["m1", "m2"]
    assert scene.invoked == [("m1", 1), ("m2", 1)]


def test_what_was_processed_before_is_suppressed_and_accepted() -> None:
    scene = stage()
    scene.inbox.ids = {"m1"}

    report = scene.run([item("m1")], returns())

    assert (ids(report.suppressed), scene.invoked) == (["m1"], [])
    assert scene.intake.done == ["m1"]


def test_a_second_copy_in_one_run_is_a_duplicate() -> None:
    scene = stage()

    report = scene.run([item("m1"), item("m1")], returns())

    assert (ids(report.handled), ids(report.suppressed)) == (["m1"], ["m1"])
    assert scene.invoked == [("m1", 1)]


def test_without_an_inbox_every_copy_that_comes_later_is_handled() -> None:
    scene = stage(deduplicates=False)
    scene.run([item("m1")], returns())

    report = scene.run([item("m1")], returns())

    assert (ids(report.handled), scene.inbox.ids) == (["m1"], set())


def test_a_type_without_handler_is_discarded_and_accepted() -> None:
    scene = stage()

    report = scene.run([item("m1", type="order.shipped")], returns())

    assert (ids(report.discarded), scene.intake.done, scene.inbox.ids) == (["m1"], ["m1"], set())


def test_an_immediate_retry_happens_in_place() -> None:
    scene = stage(retry=Retry(attempts=5, immediate=2))

    report = scene.run([item("m1")], fails("m1", times=2))

    assert scene.invoked == [("m1", 1), ("m1", 2), ("m1", 3)]
    assert (ids(report.handled), report.handled[0].attempts) == (["m1"], 2)


def test_a_delayed_retry_puts_the_message_aside_and_forgets_it() -> None:
    scene = stage(retry=LATER)

    report = scene.run([item("m1")], fails("m1"))

    assert report.retried[0].verdict == RetryLater(timedelta(seconds=1))
    assert report.retried[0].attempts == 1
    assert scene.inbox.ids == set()
    assert (scene.intake.retried, scene.intake.accepted, scene.intake.done) == (["m1"], ["m1"], [])


@pytest.mark.parametrize(("attempts", "immediate"), [(1, 0), (1, 3), (2, 0), (3, 1), (5, 1), (5, 9)])
def test_the_handler_is_invoked_exactly_as_often_as_attempts_says(attempts: int, immediate: int) -> None:
    scene = stage(retry=Retry(attempts=attempts, immediate=immediate))
    message = item("m1")
    for _ in range(attempts):
        message.verdict = None  # as if it came out of holding
        scene.run([message], fails("m1"))
        if isinstance(message.verdict, GiveUp):
            break

    assert scene.invoked == [("m1", number) for number in range(1, attempts + 1)]
    assert (message.verdict, message.attempts) == (GiveUp("exhausted"), attempts)
    assert [failed.attempt for failed in message.history] == list(range(1, attempts + 1))


def test_a_permanent_failure_is_dead_at_once() -> None:
    scene = stage()

    report = scene.run([item("m1")], fails("m1", error=PermanentError("no such product")))

    assert (ids(report.dead), report.dead[0].verdict) == (["m1"], GiveUp("permanent"))
    assert (report.dead[0].attempts, scene.intake.dead, scene.inbox.ids) == (1, ["m1"], set())


def test_one_who_asks_for_time_gets_it() -> None:
    scene = stage(retry=LATER)

    report = scene.run([item("m1")], fails("m1", error=ThrottledError("slow", retry_after=timedelta(minutes=7))))

    assert report.retried[0].verdict == RetryLater(timedelta(minutes=7))


def test_what_is_behind_a_waiting_message_of_its_key_waits_too() -> None:
    scene = stage(retry=LATER)
    items = [item("m1", key="a"), item("m2", key="b"), item("m3", key="a"), item("m4", key="b")]

    report = scene.run(items, fails("m1"))

    assert (ids(report.retried), ids(report.behind), ids(report.handled)) == (["m1"], ["m3"], ["m2", "m4"])
    assert scene.inbox.ids == {"m2", "m4"}
    assert scene.intake.behind == ["m3"]


def test_what_is_behind_a_dead_message_of_its_key_waits_too() -> None:
    scene = stage(retry=ONCE)

    report = scene.run([item("m1"), item("m2")], fails("m1"))

    assert (ids(report.dead), ids(report.behind)) == (["m1"], ["m2"])


def test_it_does_not_wait_where_the_dead_are_skipped() -> None:
    scene = stage(retry=ONCE, blocks_key=False)

    report = scene.run([item("m1"), item("m2")], fails("m1"))

    assert (ids(report.dead), ids(report.handled)) == (["m1"], ["m2"])


def test_without_order_nobody_waits_for_a_retry() -> None:
    scene = stage(retry=LATER, blocks_key=False)

    report = scene.run([item("m1", ordered=False), item("m2", ordered=False)], fails("m1"))

    assert (ids(report.retried), ids(report.handled)) == (["m1"], ["m2"])


def test_keys_that_were_stopped_before_this_run_stay_stopped() -> None:
    scene = stage()
    items = [item("m1", key="a"), item("m2", key="b")]

    report = scene.run(items, returns(), stopped=frozenset({items[0].hold_key}))

    assert (ids(report.behind), ids(report.handled), scene.inbox.ids) == (["m1"], ["m2"], {"m2"})


def test_what_the_intake_holds_back_is_neither_recorded_nor_invoked() -> None:
    scene = stage()
    items = [item("m1", key="a"), item("m2", key="b")]
    scene.intake.held_keys = frozenset({items[0].hold_key})

    report = scene.run(items, returns())

    assert (ids(report.held), ids(report.handled), scene.inbox.ids) == (["m1"], ["m2"], {"m2"})
    assert (scene.intake.accepted, scene.intake.done) == (["m1", "m2"], ["m2"])


def test_what_the_intake_has_no_room_for_is_neither_accepted_nor_told_to_be_held() -> None:
    scene = stage()
    scene.intake.full_keys = {"k:a": 1}

    report = scene.run([item("m1", key="a"), item("m2", key="b"), item("m3", key="a")], returns())

    assert (ids(report.returned), ids(report.held), ids(report.handled)) == (["m1", "m3"], [], ["m2"])
    assert (scene.intake.accepted, scene.intake.done, scene.inbox.ids) == (["m2"], ["m2"], {"m2"})


def test_a_late_copy_of_what_was_processed_does_not_wait_behind_its_key_and_is_not_forgotten() -> None:
    """The relay crashed after publishing: m1 m2 m1 m2; m1 was processed long ago, m2 fails."""
    scene = stage(retry=LATER)
    scene.inbox.ids = {"m1"}

    report = scene.run([item("m2"), item("m1"), item("m2")], fails("m2"))

    assert (ids(report.retried), ids(report.suppressed), ids(report.behind)) == (["m2"], ["m1", "m2"], [])
    assert scene.inbox.ids == {"m1"}


def test_a_copy_of_what_this_very_run_handled_is_not_forgotten() -> None:
    scene = stage(retry=LATER)

    report = scene.run([item("m1"), item("m2"), item("m1")], fails("m2"))

    assert (ids(report.handled), ids(report.retried), ids(report.suppressed)) == (["m1"], ["m2"], ["m1"])
    assert scene.inbox.ids == {"m1"}


class FullGate(OpenGate):
    """Has no room for anything."""

    def admit(self, items: Sequence[Item], *, processed: Sequence[Item]) -> Program[Sequence[Item]]:
        yield from super().admit(items, processed=processed)
        for one in items:
            one.returned = True
        return ()


def test_a_second_copy_of_what_there_was_no_room_for_goes_back_too() -> None:
    """Both may be one delivery, which its channel gave out anew: accepting one of them would lose it."""
    scene = stage()
    scene.rules = replace(scene.rules, gate=FullGate())

    report = scene.run([item("m1"), item("m1")], returns())

    assert (ids(report.returned), report.suppressed) == (["m1", "m1"], [])
    assert all(one.returned for one in report.returned)
    assert (scene.intake.accepted, scene.inbox.ids) == ([], set())


def test_a_handler_that_had_written_spoils_the_run() -> None:
    scene = stage(retry=LATER)
    culprit = item("m2", key="b")

    with pytest.raises(RunSpoiled) as spoiled:
        scene.run([item("m1", key="a"), culprit], fails("m2", touched=True))

    assert spoiled.value.item is culprit
    assert spoiled.value.verdict == RetryLater(timedelta(seconds=1))
    assert culprit.attempts == 1


def test_the_culprit_of_a_spoiled_run_is_put_aside_without_another_attempt() -> None:
    scene = stage(retry=LATER)
    culprit = item("m2", key="b")
    culprit.verdict, culprit.attempts, culprit.error = RetryLater(timedelta(seconds=1)), 1, ValueError()

    report = scene.run([item("m1", key="a"), culprit], returns())

    assert (ids(report.handled), ids(report.retried)) == (["m1"], ["m2"])
    assert (culprit.attempts, scene.invoked) == (1, [("m1", 1)])


def test_an_immediate_retry_of_one_that_had_written_needs_a_new_transaction() -> None:
    scene = stage(retry=Retry(attempts=3, immediate=1))

    with pytest.raises(RunSpoiled) as spoiled:
        scene.run([item("m1")], fails("m1", touched=True))

    assert spoiled.value.verdict == RetryNow()


def test_a_conflict_of_the_database_is_nobodys_attempt() -> None:
    scene = stage()
    message = item("m1")

    with pytest.raises(RunSpoiled) as spoiled:
        scene.run([message], fails("m1", error=ConflictError("again")))

    assert (spoiled.value.verdict, message.attempts, message.history) == (None, 0, ())


@pytest.mark.parametrize(
    "error",
    [DecodeError(reason="not JSON"), UnknownMessageTypeError(message_type="order.placed", version=9)],
    ids=["undecodable", "unknown version"],
)
def test_what_cannot_be_read_is_dead_without_an_attempt(error: Exception) -> None:
    scene = stage()

    def decode(_: Message) -> object:
        raise error

    scene.rules = replace(scene.rules, decode=decode)

    report = scene.run([item("m1")], returns())

    assert (report.dead[0].verdict, report.dead[0].attempts, scene.invoked) == (GiveUp("undecodable"), 0, [])
    assert [failed.error for failed in report.dead[0].history] == [str(error)]


def test_what_a_handler_returns_is_published_flat_and_in_order() -> None:
    scene = stage()
    returned = [StockReserved("a"), (StockReserved("b"), None, [StockReserved("c"), ()])]

    report = scene.run([item("m1")], returns(returned))

    assert [record.message.key for record in scene.outbox.records] == ["a", "b", "c"]
    assert report.published == 3


def test_what_is_published_is_caused_by_the_message() -> None:
    scene = stage()
    scene.run([item("m1", headers={"correlationid": "c-1", "hop": "4"})], returns(StockReserved()))

    (record,) = scene.outbox.records
    assert (record.message.correlation_id, record.message.causation_id, record.message.hop) == ("c-1", "m1", 5)


@pytest.mark.parametrize(
    "nonsense", [7, "text", {"a": 1}, {1}, b"bytes", True, object(), [StockReserved(), 7], StockReserved(None)]
)
def test_a_returned_value_that_is_no_message_fails_the_attempt_for_good(nonsense: object) -> None:
    scene = stage()
    message = item("m1")

    with pytest.raises(RunSpoiled) as spoiled:
        scene.run([message], returns(nonsense))

    assert spoiled.value.verdict == GiveUp("permanent")
    assert isinstance(message.error, InvalidReturnError)


def test_nothing_of_a_failed_attempt_is_published() -> None:
    scene = stage(retry=LATER)

    def publish_and_fail(identity: str, _: int) -> Returned | Raised:
        return Returned(StockReserved(identity)) if identity == "m1" else Raised(ValueError(), touched=False)

    report = scene.run([item("m1", key="a"), item("m2", key="b")], publish_and_fail)

    assert [record.message.key for record in scene.outbox.records] == ["m1"]
    assert report.published == 1


def test_an_error_of_any_length_fits_into_the_history() -> None:
    scene = stage(retry=ONCE)

    report = scene.run([item("m1")], fails("m1", error=ValueError("x" * 10_000)))

    assert len(report.dead[0].history[0].error) == 2_000


def payment(message: Message) -> str:
    """The inbox row of a message whose body is the id of a payment."""
    if not message.body:
        raise MissingBusinessKeyError(consumer="shop/reserve", reason="it is None")
    return f"dedupe: {message.body.decode()}"


def test_a_message_of_the_same_business_key_has_no_second_effect_and_is_known_from_then_on() -> None:
    scene = stage(business_row=payment)
    scene.run([item("m1", body=b"p1")], returns())

    report = scene.run([item("m2", key="other", body=b"p1"), item("m3", key="b", body=b"p2")], returns())

    assert (ids(report.suppressed), ids(report.handled)) == (["m2"], ["m3"])
    assert scene.inbox.ids == {"m1", "m2", "m3", "dedupe: p1", "dedupe: p2"}
    assert scene.intake.done == ["m1", "m3", "m2"]


def test_of_two_in_one_run_with_the_same_business_key_one_is_handled() -> None:
    scene = stage(business_row=payment)

    report = scene.run([item("m1", body=b"p1"), item("m2", key="b", body=b"p1"), item("m2", body=b"p1")], returns())

    assert (ids(report.handled), ids(report.suppressed)) == (["m1"], ["m2", "m2"])
    assert scene.invoked == [("m1", 1)]


def test_a_message_that_waits_gives_its_business_key_back() -> None:
    scene = stage(retry=LATER, business_row=payment)

    report = scene.run([item("m1", body=b"p1"), item("m2", body=b"p2")], fails("m1"))

    assert (ids(report.retried), ids(report.behind)) == (["m1"], ["m2"])
    assert scene.inbox.ids == set()


def test_what_means_the_same_as_a_failed_message_is_not_suppressed_by_it() -> None:
    scene = stage(retry=ONCE, business_row=payment)

    report = scene.run([item("m1", body=b"p1"), item("m2", key="b", body=b"p1")], fails("m1"))

    assert (ids(report.dead), ids(report.handled)) == (["m1"], ["m2"])
    assert scene.inbox.ids == {"m2", "dedupe: p1"}
    assert ids(scene.run([item("m1", body=b"p1")], returns()).suppressed) == ["m1"], "its replay"


def test_a_message_processed_before_there_were_business_keys_gives_its_own_to_the_inbox() -> None:
    scene = stage(business_row=payment)
    scene.inbox.ids = {"m1"}

    report = scene.run([item("m1", body=b"p1"), item("m2", key="b", body=b"p1")], returns())

    assert (ids(report.suppressed), scene.invoked) == (["m1", "m2"], [])
    assert scene.inbox.ids == {"m1", "m2", "dedupe: p1"}


def test_a_message_without_its_business_key_is_dead_without_an_attempt() -> None:
    scene = stage(business_row=payment)

    report = scene.run([item("m1", body=b""), item("m2", key="b", body=b"p1")], returns())

    assert (report.dead[0].verdict, report.dead[0].attempts) == (GiveUp("no-business-key"), 0)
    assert isinstance(report.dead[0].error, MissingBusinessKeyError)
    assert scene.inbox.ids == {"m2", "dedupe: p1"}


def test_what_cannot_be_read_has_no_business_key_and_is_dead_for_that() -> None:
    def unread(_: Message) -> str:
        raise DecodeError(reason="not JSON")

    scene = stage(business_row=unread)

    report = scene.run([item("m1")], returns())

    assert (report.dead[0].verdict, scene.invoked) == (GiveUp("undecodable"), [])
