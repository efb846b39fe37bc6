"""How health is judged."""

from dataclasses import replace
from datetime import timedelta

from pillarbox.control import HealthLimits, HealthStatus, Vitals, judge
from pillarbox.control.aging import AgingLetters
from pillarbox.deadletter.groups import AgedLetters
from pillarbox.flow import FlowsState
from pillarbox.holding import HoldingState
from pillarbox.outbox import OutboxState
from pillarbox.relay.log_reader import LogState
from pillarbox.saga.store import OverdueSagas, SagasInNeed

QUIET = Vitals(
    outbox=OutboxState(pending=0, oldest_for=None, scheduled=0, parked=0, held=0),
    holding=HoldingState(keys=0, blocked=0, messages=0, oldest_for=None),
    oldest_queued_for=None,
    dead=0,
)
LIMITS = HealthLimits()


def status(vitals: Vitals) -> HealthStatus:
    return judge(vitals).status


def test_nothing_waiting_is_ok() -> None:
    assert judge(QUIET).problems == ()
    assert status(QUIET) is HealthStatus.OK


def test_records_that_wait_no_longer_than_the_limit_are_ok() -> None:
    busy = replace(QUIET.outbox, pending=10_000, oldest_for=LIMITS.oldest_pending, scheduled=5)

    assert status(replace(QUIET, outbox=busy)) is HealthStatus.OK


def test_a_record_that_waits_for_too_long_is_unhealthy() -> None:
    stuck = replace(QUIET.outbox, pending=1, oldest_for=LIMITS.oldest_pending + timedelta(seconds=1))

    assert status(replace(QUIET, outbox=stuck)) is HealthStatus.UNHEALTHY


def test_the_limit_can_be_chosen() -> None:
    waiting = replace(QUIET, outbox=replace(QUIET.outbox, pending=1, oldest_for=timedelta(seconds=2)))

    assert judge(waiting, HealthLimits(oldest_pending=timedelta(seconds=1))).status is HealthStatus.UNHEALTHY


def test_a_flow_that_is_stuck_or_that_nobody_looks_at_is_degraded() -> None:
    long_ago = LIMITS.unwatched_flow + timedelta(seconds=1)
    stuck = FlowsState(stuck=2, oldest_for=long_ago, unwatched_for=None)
    unwatched = FlowsState(stuck=0, oldest_for=None, unwatched_for=long_ago)

    assert [status(replace(QUIET, flows=flows)) for flows in (stuck, unwatched)] == [HealthStatus.DEGRADED] * 2
    assert "2 processes of flows are stuck, the first for 61 s" in judge(replace(QUIET, flows=stuck)).problems[0].what
    assert status(replace(QUIET, flows=replace(unwatched, unwatched_for=LIMITS.unwatched_flow))) is HealthStatus.OK


def test_whatever_waits_for_an_operator_is_degraded() -> None:
    waiting = [
        replace(QUIET, outbox=replace(QUIET.outbox, parked=1)),
        replace(QUIET, dead=1),
        replace(QUIET, holding=replace(QUIET.holding, keys=1, blocked=1)),
        replace(QUIET, holding=replace(QUIET.holding, keys=1, oldest_for=LIMITS.oldest_hold * 2)),
        replace(QUIET, oldest_queued_for=LIMITS.oldest_queued * 2),
    ]

    assert [status(vitals) for vitals in waiting] == [HealthStatus.DEGRADED] * len(waiting)


def test_letters_that_only_force_replays_soon_are_degraded_with_what_to_do() -> None:
    within, day = timedelta(days=14), timedelta(days=1)
    letters = AgedLetters(consumer="shop/reserve", count=2, oldest_for=11 * day + timedelta(seconds=0.4))

    near = AgingLetters(letters=letters, replay_within=within)
    over = AgingLetters(letters=replace(letters, oldest_for=15 * day), replay_within=within)

    (problem,) = judge(replace(QUIET, aging_letters=(near,))).problems
    assert problem.status is HealthStatus.DEGRADED
    assert problem.what == (
        "2 dead letters of shop/reserve are old, the oldest failed 11 days, 0:00:00 ago; replays need force in 3 days,"
        " 0:00:00, beyond 14 days, 0:00:00: pillarbox dead-letters replay-all --consumer shop/reserve, or discard them,"
        " or have the inbox keep longer"
    )
    (problem,) = judge(replace(QUIET, aging_letters=(over,))).problems
    assert problem.what == (
        "2 dead letters of shop/reserve are old, the oldest failed 15 days, 0:00:00 ago; its replay has needed force"
        " for 1 day, 0:00:00, beyond 14 days, 0:00:00: pillarbox dead-letters list --consumer shop/reserve, then"
        " replay-all --force, or discard"
    )


def test_more_held_messages_than_the_limit_are_degraded() -> None:
    many = replace(QUIET, holding=replace(QUIET.holding, keys=1, messages=10_001))

    (problem,) = judge(many).problems
    assert (problem.status, problem.what[:23]) == (HealthStatus.DEGRADED, "10001 messages are held")
    assert status(replace(QUIET, holding=replace(QUIET.holding, keys=1, messages=10_000))) is HealthStatus.OK


def test_a_key_with_as_many_messages_as_may_be_held_is_degraded() -> None:
    full = replace(QUIET, holding=replace(QUIET.holding, keys=1, messages=500, fullest=500))

    (problem,) = judge(full, HealthLimits(fullest_key=500)).problems
    assert (problem.status, problem.what[:43]) == (HealthStatus.DEGRADED, "a held key is full with 500 messages, the r")
    assert judge(full, HealthLimits(fullest_key=501)).problems == ()
    assert judge(full, HealthLimits(fullest_key=None)).problems == ()


def test_a_saga_that_needs_attention_is_degraded() -> None:
    found = judge(replace(QUIET, sagas_in_need=SagasInNeed(count=2, oldest_for=timedelta(minutes=3))))

    assert found.status is HealthStatus.DEGRADED
    assert "2 sagas need attention, the oldest for 180 s: pillarbox saga list" in found.problems[0].what


def test_a_saga_that_nobody_runs_is_degraded_and_names_its_service() -> None:
    patient = OverdueSagas(service="shop", oldest_for=LIMITS.oldest_due)
    late = OverdueSagas(service="stock", oldest_for=LIMITS.oldest_due * 2)

    assert status(replace(QUIET, overdue_sagas=(patient,))) is HealthStatus.OK
    (problem,) = judge(replace(QUIET, overdue_sagas=(patient, late))).problems
    assert problem.status is HealthStatus.DEGRADED
    assert problem.what.startswith("a saga of stock has been due for 60 s")


def test_the_worst_problem_comes_first_and_decides() -> None:
    stuck = replace(QUIET.outbox, pending=1, oldest_for=timedelta(hours=9), parked=3)

    found = judge(replace(QUIET, outbox=stuck, dead=2))

    assert [problem.status for problem in found.problems] == [
        HealthStatus.UNHEALTHY,
        HealthStatus.DEGRADED,
        HealthStatus.DEGRADED,
    ]
    assert found.status is HealthStatus.UNHEALTHY


LOG = LogState(
    slot_name="pillarbox_shop",
    is_there=True,
    is_read=True,
    retained_bytes=1000,
    unconfirmed_bytes=1000,
    quiet_for=timedelta(hours=1),
)
LONG_AGO = LIMITS.oldest_pending * 2


def test_a_log_that_is_read_to_its_end_is_ok() -> None:
    assert status(replace(QUIET, log=LOG)) is HealthStatus.OK


def test_a_log_that_is_busy_is_ok() -> None:
    busy = replace(LOG, unconfirmed_bytes=LIMITS.unread_log * 100, quiet_for=timedelta(seconds=1))

    assert status(replace(QUIET, log=busy)) is HealthStatus.OK


def test_a_log_that_nobody_reads_or_that_does_not_move_is_unhealthy() -> None:
    for log in (
        replace(LOG, is_there=False),
        replace(LOG, is_read=False, quiet_for=LONG_AGO),
        replace(LOG, unconfirmed_bytes=LIMITS.unread_log + 1, quiet_for=LONG_AGO),
    ):
        assert status(replace(QUIET, log=log)) is HealthStatus.UNHEALTHY


def test_a_log_that_grows_too_large_is_degraded() -> None:
    assert status(replace(QUIET, log=replace(LOG, retained_bytes=LIMITS.retained_log + 1))) is HealthStatus.DEGRADED
