"""What becomes an alert, how often, and what is in it."""

from __future__ import annotations

from datetime import timedelta
from itertools import count

import pytest

from pillarbox import AlertRules
from pillarbox.alerts import Alarm, Alert
from pillarbox.alerts.alarm import MOST_WAITING
from pillarbox.alerts.rules import MOST_SUBJECTS
from pillarbox.control import Vitals
from pillarbox.control.aging import AgingLetters
from pillarbox.deadletter.groups import AgedLetters
from pillarbox.errors import ConfigurationError
from pillarbox.holding import HoldingState
from pillarbox.observe import (
    AlertFailed,
    BreakerClosed,
    BreakerOpened,
    ConsumerStopped,
    Event,
    FlowStuck,
    GapFound,
    GapSkipped,
    HeldKeyFull,
    LogGapFound,
    MessageDead,
    MessageHandled,
    RecordParked,
    SagaEnded,
    SagaNeedsAttention,
    SagaUnreadable,
    WorkerFaltered,
)
from pillarbox.outbox import OutboxState
from pillarbox.saga.store import OverdueSagas, SagasInNeed
from pillarbox.testing import VirtualClock

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
OPENED = BreakerOpened(dependency="shop/gateway", error_type="TimeoutError", openings=1, retry_after=MINUTE)
PARKED = RecordParked(message_id="m1", destination="topic:order", reason="too large")
FALTERED = WorkerFaltered(worker="shop/a", error_type="ValueError", error="x", retry_after=MINUTE)


class Scene:
    """An alarm and its clock."""

    def __init__(self, rules: AlertRules) -> None:
        self.clock = VirtualClock()
        numbers = count(1)
        self.alarm = Alarm("shop", nobody, rules, clock=self.clock, new_id=lambda: f"a{next(numbers)}")

    def told(self, *events: Event) -> list[tuple[str, str, int]]:
        """The alerts that follow from ``events``."""
        for event in events:
            self.alarm.notice(event)
        return self.waiting()

    def waiting(self) -> list[tuple[str, str, int]]:
        """The alerts that wait, taken."""
        told = [(one.rule, one.subject, one.count) for one in self.alarm.waiting]
        self.alarm.waiting.clear()
        return told


async def nobody(alert: Alert) -> None:
    """A target."""


def scene(**rules: object) -> Scene:
    """An alarm with ``rules``."""
    return Scene(AlertRules(**rules))  # type: ignore[arg-type]


def dead(
    group: str = "g1",
    *,
    consumer: str = "shop/a",
    holds_key: bool = False,
    quiet_for: timedelta | None = None,
    regressed: bool = False,
) -> MessageDead:
    """A message that died, the first of its group unless that was ``quiet_for`` some time."""
    return MessageDead(
        consumer=consumer,
        message_id="m1",
        reason="exhausted",
        attempts=5,
        error_type="ValueError",
        group=group,
        holds_key=holds_key,
        quiet_for=quiet_for,
        regressed=regressed,
    )


def test_the_first_dead_letter_of_each_group_is_told() -> None:
    later = dead(quiet_for=timedelta(0))

    assert scene().told(dead(), later, dead("g2"), dead(consumer="shop/b")) == [
        ("dead-letter", "shop/a g1", 1),
        ("dead-letter", "shop/a g2", 1),
        ("dead-letter", "shop/b g1", 1),
    ]


def test_a_group_that_was_quiet_for_long_is_a_regression() -> None:
    at = scene(regression_after=HOUR)

    assert at.told(dead(quiet_for=HOUR / 2)) == [], "known to the tables, though not to this process"
    assert at.told(dead(quiet_for=HOUR)) == [("dead-letter-again", "shop/a g1", 1)]


def test_a_group_that_was_resolved_is_a_regression_however_soon_it_dies_again() -> None:
    back = dead(quiet_for=MINUTE, regressed=True)
    at = scene()

    assert at.told(dead(), dead(quiet_for=MINUTE)) == [("dead-letter", "shop/a g1", 1)]
    at.alarm.notice(back)
    (alert,) = at.alarm.waiting
    assert (alert.rule, alert.subject, alert.facts["quiet_for"]) == ("dead-letter-again", "shop/a g1", MINUTE)
    assert "though that was resolved" in alert.text
    assert scene(regression_after=None).told(back) == []


def test_many_dead_letters_in_a_short_time_are_told_once() -> None:
    at = scene(dead_letters=3, within=MINUTE, dead_letter=False)

    assert at.told(dead("1"), dead("2")) == []
    at.clock.advance(2 * MINUTE)
    assert at.told(dead("3"), dead("4")) == [], "the first two are too long ago"
    assert at.told(dead("5")) == [("dead-letter-rate", "shop/a", 1)]


def test_what_does_not_come_in_a_flow_is_told_by_who_has_not_reacted_and_many_at_once_are_one_alert() -> None:
    def stuck(process: str, culprit: str = "stock/reserve") -> FlowStuck:
        return FlowStuck(flow="shop/fulfilment", correlation_id=process, culprit=culprit, missing=("a", "b"))

    at = scene()
    at.alarm.notice(stuck("p-1"))

    (alert,) = at.alarm.waiting
    assert alert.text == "shop/fulfilment is stuck: a; b: pillarbox flow trace p-1"
    assert alert.facts == {"correlation_id": "p-1", "culprit": "stock/reserve"}
    assert at.told(stuck("p-2"), stuck("p-3"), stuck("p-4", "")) == [
        ("flow-stuck", "shop/fulfilment stock/reserve", 1),
        ("flow-stuck", "shop/fulfilment", 1),
    ]
    assert scene(flow_stuck=False).told(stuck("p-1")) == []


def test_a_held_key_a_parked_record_and_an_open_breaker_are_told() -> None:
    assert scene(dead_letter=False).told(dead(holds_key=True), PARKED, OPENED) == [
        ("held-key", "shop/a", 1),
        ("held-key", "topic:order", 1),
        ("breaker-opened", "shop/gateway", 1),
    ]


def test_a_worker_that_falters_again_and_again_is_told_of() -> None:
    at = scene(falters=3)

    assert at.told(FALTERED, FALTERED) == []
    assert at.told(FALTERED) == [("worker-falters", "shop/a", 1)]


def test_a_gap_in_the_log_is_told_unless_it_is_healed() -> None:
    assert scene().told(LogGapFound(reason="r", healed=True)) == []
    assert scene().told(LogGapFound(reason="r", healed=False)) == [("log-gap", "outbox", 1)]


def test_a_stopped_consumer_and_a_gap_are_told_of() -> None:
    stopped = ConsumerStopped(consumer="shop/a", message_id="m1")
    found = GapFound(consumer="shop/b", channel="topic:order", first=3, last=4, buffered=1, stalled_for=MINUTE)
    skipped = GapSkipped(consumer="shop/c", channel="topic:order", first=3, last=4, by="policy", because="waited")

    assert scene().told(stopped, found, skipped) == [
        ("consumer-stopped", "shop/a", 1),
        ("gap", "shop/b topic:order", 1),
        ("gap", "shop/c topic:order", 1),
    ]
    assert scene(consumer_stopped=False, gap=False).told(stopped, found, skipped) == []


def test_a_saga_that_is_stuck_is_told_of_by_its_definition_without_what_it_holds() -> None:
    at = scene()
    stuck = [SagaNeedsAttention(saga="shop/fulfil", saga_id=f"o-{n}", error="card 4111 refused") for n in range(3)]
    unreadable = SagaUnreadable(saga="shop/fulfil", saga_id="o-9", version=2, error="card 4111 is no number")

    at.alarm.notice(SagaEnded(saga="shop/fulfil", saga_id="o-1", status="compensated"))
    for event in (*stuck, unreadable, unreadable):
        at.alarm.notice(event)

    told = "".join(f"{one.text} {one.facts}" for one in at.alarm.waiting)
    assert at.waiting() == [("saga-needs-attention", "shop/fulfil", 1), ("saga-unreadable", "shop/fulfil", 1)]
    assert "pillarbox saga list --status needs_attention" in told
    assert "4111" not in told
    assert scene(saga_stuck=False).told(*stuck, unreadable) == []


def test_that_a_dependency_is_down_is_not_told_again_when_it_is_back() -> None:
    at = scene(repeat_after=HOUR)
    at.told(OPENED)
    at.told(OPENED, BreakerClosed(dependency="shop/gateway", away_for=MINUTE))

    at.clock.advance(HOUR)
    at.alarm.remind()

    assert at.waiting() == []
    assert at.told(OPENED) == [("breaker-opened", "shop/gateway", 2)]


def test_what_is_well_is_no_alert_nor_is_a_failing_alert() -> None:
    failed = AlertFailed(rule="r", subject="s", target="t", error_type="e", is_given_up=True)
    handled = MessageHandled(consumer="shop/a", message_id="m", attempts=1)

    assert scene().told(handled, failed, BreakerClosed(dependency="d", away_for=MINUTE)) == []


def test_a_subject_is_not_repeated_for_a_while_and_what_happens_meanwhile_is_counted() -> None:
    at = scene(repeat_after=HOUR)
    assert at.told(OPENED) == [("breaker-opened", "shop/gateway", 1)]

    assert at.told(OPENED, OPENED) == []
    at.alarm.remind()
    assert at.waiting() == []
    at.clock.advance(HOUR)
    at.alarm.remind()
    assert at.waiting() == [("breaker-opened", "shop/gateway", 2)]
    at.clock.advance(HOUR)
    at.alarm.remind()
    assert at.waiting() == [], "nothing has happened since"
    assert at.told(OPENED) == [("breaker-opened", "shop/gateway", 1)]


def test_rules_can_be_left_out() -> None:
    at = scene(
        dead_letter=False, regression_after=None, dead_letters=None, held_key=False, breaker_opened=False, falters=None
    )

    again = dead(quiet_for=99 * HOUR, regressed=True)
    assert at.told(dead(holds_key=True), again, OPENED, PARKED, *[FALTERED] * 50) == []


def test_what_has_waited_too_long_is_told() -> None:
    at = scene(oldest_held=None)
    vitals = Vitals(
        outbox=OutboxState(pending=1, oldest_for=2 * MINUTE, scheduled=0, parked=0, held=0),
        holding=HoldingState(keys=1, blocked=0, messages=1, oldest_for=99 * HOUR),
        oldest_queued_for=MINUTE,
        dead=0,
        sagas_in_need=SagasInNeed(count=2, oldest_for=2 * HOUR),
        overdue_sagas=(
            OverdueSagas(service="shop", oldest_for=timedelta(seconds=1)),
            OverdueSagas(service="stock", oldest_for=HOUR),
        ),
    )

    at.alarm.notice_vitals(vitals)

    assert at.waiting() == [
        ("oldest-pending", "outbox", 1),
        ("oldest-saga-in-need", "sagas", 1),
        ("oldest-due-saga", "stock", 1),
    ]


def test_what_waited_too_long_is_told_of_again_while_it_lasts_and_not_when_it_is_over() -> None:
    at = scene(repeat_after=HOUR)

    def look(age: timedelta | None) -> list[tuple[str, str, int]]:
        outbox = OutboxState(pending=0, oldest_for=age, scheduled=0, parked=0, held=0)
        holding = HoldingState(keys=0, blocked=0, messages=0, oldest_for=None)
        at.alarm.notice_vitals(Vitals(outbox=outbox, holding=holding, oldest_queued_for=None, dead=0))
        at.alarm.remind()
        return at.waiting()

    assert look(2 * MINUTE) == [("oldest-pending", "outbox", 1)]
    assert look(3 * MINUTE) == []
    at.clock.advance(HOUR)
    assert look(HOUR + 3 * MINUTE) == [("oldest-pending", "outbox", 2)]
    assert look(HOUR + 4 * MINUTE) == []
    at.clock.advance(HOUR)
    assert look(None) == [], "the relay is back, and has been for long"


@pytest.mark.parametrize(("rule", "subject"), [("oldest-held", "holding"), ("oldest-queued", "queues")])
def test_a_hold_and_a_queue_that_wait_too_long_are_told_of_unless_their_rule_is_left_out(
    rule: str, subject: str
) -> None:
    word = rule.replace("-", "_")

    def waiting(age: timedelta | None, limit: timedelta | None) -> list[tuple[str, str, int]]:
        at = scene(**{word: limit})
        at.alarm.notice_vitals(
            Vitals(
                outbox=OutboxState(pending=0, oldest_for=None, scheduled=0, parked=0, held=0),
                holding=HoldingState(keys=1, blocked=0, messages=1, oldest_for=age if subject == "holding" else None),
                oldest_queued_for=age if subject == "queues" else None,
                dead=0,
                sagas_in_need=SagasInNeed(count=0, oldest_for=None),
                overdue_sagas=(),
            )
        )
        return at.waiting()

    assert waiting(2 * HOUR, HOUR) == [(rule, subject, 1)]
    assert waiting(HOUR, HOUR) == waiting(None, HOUR) == waiting(99 * HOUR, None) == []


@pytest.mark.parametrize(
    ("limit", "found"), [(10_000, []), (9_999, [("held-messages", "holding", 1)]), (None, [])], ids=str
)
def test_more_held_messages_than_the_limit_are_told(limit: int | None, found: list[tuple[str, str, int]]) -> None:
    at = scene(held_messages=limit)
    holding = HoldingState(keys=1, blocked=1, messages=10_000, oldest_for=None)
    outbox = OutboxState(pending=0, oldest_for=None, scheduled=0, parked=0, held=0)

    at.alarm.notice_vitals(Vitals(outbox=outbox, holding=holding, oldest_queued_for=None, dead=0))

    assert at.waiting() == found


def test_a_full_key_is_told_with_what_to_do_unless_its_rule_is_left_out() -> None:
    full = HeldKeyFull(consumer="shop/a", message_id="m7", limit=500)
    at = scene()
    at.alarm.notice(full)

    (alert,) = at.alarm.waiting
    assert (alert.rule, alert.subject, dict(alert.facts)) == ("full-key", "shop/a", {"message_id": "m7", "limit": 500})
    assert "full with 500 messages" in alert.text
    assert alert.text.endswith("pillarbox held list --consumer shop/a")
    at.waiting()
    assert at.told(full, full) == [], "it was told of just now"
    assert scene(full_key=False).told(full) == []


@pytest.mark.parametrize(("rule", "found"), [(True, [("aging-letters", "shop/reserve", 1)]), (False, [])])
def test_letters_that_only_force_replays_soon_are_told_of_once_in_a_while_for_each_consumer(
    rule: bool, found: list[tuple[str, str, int]]
) -> None:
    at = scene(aging_letters=rule)
    aging = AgingLetters(
        letters=AgedLetters(consumer="shop/reserve", count=3, oldest_for=11 * 24 * HOUR),
        replay_within=14 * 24 * HOUR,
    )
    outbox = OutboxState(pending=0, oldest_for=None, scheduled=0, parked=0, held=0)
    holding = HoldingState(keys=0, blocked=0, messages=0, oldest_for=None)
    vitals = Vitals(outbox=outbox, holding=holding, oldest_queued_for=None, dead=3, aging_letters=(aging,))

    at.alarm.notice_vitals(vitals)
    at.alarm.notice_vitals(vitals)

    alerts = list(at.alarm.waiting)
    assert at.waiting() == found
    assert [(alert.text, alert.facts["letters"], alert.facts["left"]) for alert in alerts] == [
        (aging.told, 3, 3 * 24 * HOUR) for _ in found
    ]


def test_the_oldest_alerts_give_way_and_it_is_said_how_many_did() -> None:
    at = scene(repeat_after=timedelta(0), regression_after=None, dead_letters=None)
    for number in range(MOST_WAITING + 3):
        at.alarm.notice(dead(f"g{number}"))

    assert len(at.alarm.waiting) == MOST_WAITING
    assert sum(int(str(one.facts.get("alerts_dropped", 0))) for one in at.alarm.waiting) == 3


def test_what_is_remembered_is_bounded() -> None:
    at = scene(repeat_after=HOUR)
    for number in range(5_000):
        at.alarm.notice(dead(f"g{number}"))

    assert at.told(dead("g0"))[-1] == ("dead-letter", "shop/a g0", 1), "forgotten, so it is told again"


def test_a_subject_that_is_touched_often_is_not_forgotten_for_those_that_are_not() -> None:
    at = scene(repeat_after=HOUR, dead_letters=None)
    at.told(OPENED)
    for number in range(2 * MOST_SUBJECTS):
        at.told(dead(f"g{number}"), *[OPENED] * (number % 100 == 0))

    at.clock.advance(HOUR)
    at.alarm.remind()
    assert at.waiting() == [("breaker-opened", "shop/gateway", 20)], "throttled and counted all the while"


@pytest.mark.parametrize("nonsense", [{"within": timedelta(0)}, {"dead_letters": 0}, {"repeat_after": -MINUTE}])
def test_rules_that_mean_nothing_are_refused(nonsense: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        scene(**nonsense)
