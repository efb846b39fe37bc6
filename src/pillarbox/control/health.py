"""Health: computed from the tables, so that any process can tell, above all when no relay runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from pillarbox.consumer.circuits import CircuitStore, KnownCircuit
from pillarbox.consumer.positions import Gaps, GapState
from pillarbox.control.aging import NEAR, AgingLetters
from pillarbox.control.inspection import Inspection
from pillarbox.deadletter import DeadLetterFilter, DeadLetterReview, DeadLetterStore
from pillarbox.flow import FlowInstances, FlowsState
from pillarbox.holding import HoldingState, HoldingStore, WaitsState, WaitStore
from pillarbox.outbox import OutboxState, OutboxStore
from pillarbox.relay.log_reader import LogCheckpoints, LogState
from pillarbox.saga.store import OverdueSagas, SagaArchive, SagasInNeed
from pillarbox.transaction import Program, TransactionSource


class HealthStatus(StrEnum):
    """``unhealthy``: messages do not leave; ``degraded``: some wait for an operator, or longer than they should."""

    OK = "ok"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthLimits:
    """How long is too long.

    Attributes:
        oldest_pending: the oldest record of the outbox; beyond it no relay works, or its broker is away.
        oldest_queued: the oldest message in the database's own queues; beyond it consumers do not keep up.
        oldest_hold: the oldest hold of a key in a consumer.
        held_messages: how many messages wait behind held keys, all together.
        fullest_key: with so many messages a held key is full: see ``Settings.max_held``. ``None`` for never.
        oldest_gap: the gap of a consumer that goes by numbers that has stalled longest.
        oldest_wait: the message that has waited longest for its causes.
        oldest_due: the saga that has been due for longest; beyond it nobody runs its definition.
        unwatched_flow: the process of a flow that was to be looked at longest ago.
        retained_log: bytes of log that the database keeps for a log tailing relay.
        unread_log: bytes of log behind what that relay confirmed, while it confirms nothing for ``oldest_pending``.
    """

    oldest_pending: timedelta = timedelta(seconds=30)
    oldest_queued: timedelta = timedelta(minutes=5)
    oldest_hold: timedelta = timedelta(hours=1)
    held_messages: int = 10_000
    fullest_key: int | None = 10_000
    oldest_gap: timedelta = timedelta(seconds=30)
    oldest_wait: timedelta = timedelta(minutes=5)
    oldest_due: timedelta = timedelta(seconds=30)
    unwatched_flow: timedelta = timedelta(minutes=1)
    retained_log: int = 1 << 30
    unread_log: int = 256 << 10


NO_GAPS = GapState(lines=0, buffered=0, oldest_for=None)
NOTHING_WAITS = WaitsState(messages=0, oldest_for=None)
NO_SAGAS = SagasInNeed(count=0, oldest_for=None)
NO_FLOWS = FlowsState(stuck=0, oldest_for=None, unwatched_for=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What health is judged by.

    Attributes:
        oldest_queued_for: how long ago the oldest message in the database's own queues was published.
        dead: dead letters that nobody has decided about.
        aging_letters: those of each consumer that only force replays soon.
        gaps: lines of numbers in which messages wait for one that has not come.
        waits: what waits for causes.
        stopped: consumers that a dead letter has stopped.
        log: the log of a log tailing relay; ``None`` where none has worked.
        down: the dependencies whose breakers are not closed.
        sagas_in_need: sagas that wait for an operator's verb.
        overdue_sagas: by service, for how long a saga has been due that nobody has looked at.
        flows: processes of flows of which something did not come.
    """

    outbox: OutboxState
    holding: HoldingState
    oldest_queued_for: timedelta | None
    dead: int
    log: LogState | None = None
    down: tuple[KnownCircuit, ...] = ()
    gaps: GapState = NO_GAPS
    waits: WaitsState = NOTHING_WAITS
    stopped: tuple[str, ...] = ()
    sagas_in_need: SagasInNeed = NO_SAGAS
    overdue_sagas: tuple[OverdueSagas, ...] = ()
    flows: FlowsState = NO_FLOWS
    aging_letters: tuple[AgingLetters, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that an operator should look at, and how bad it makes things."""

    status: HealthStatus
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a service's messages fare.

    Attributes:
        problems: what keeps it from being ``ok``, worst first.
    """

    status: HealthStatus
    problems: tuple[Problem, ...]
    vitals: Vitals


DEFAULT_LIMITS = HealthLimits()
_SEVERITY = {HealthStatus.OK: 0, HealthStatus.DEGRADED: 1, HealthStatus.UNHEALTHY: 2}


def judge(vitals: Vitals, limits: HealthLimits = DEFAULT_LIMITS) -> Health:
    """Decide how things stand; a limit is kept while it is not exceeded."""
    problems = sorted(_problems(vitals, limits), key=lambda problem: -_SEVERITY[problem.status])
    return Health(status=problems[0].status if problems else HealthStatus.OK, problems=tuple(problems), vitals=vitals)


def _problems(vitals: Vitals, limits: HealthLimits) -> Iterator[Problem]:
    outbox = vitals.outbox
    if _exceeds(outbox.oldest_for, limits.oldest_pending):
        waited = _seconds(outbox.oldest_for)
        what = f"the oldest pending record has waited for {waited}: is a relay running, is the broker there?"
        yield Problem(status=HealthStatus.UNHEALTHY, what=what)
    if vitals.log is not None:
        yield from _problems_of_log(vitals.log, limits)
    if outbox.parked:
        what = f"{outbox.parked} records are parked, {outbox.held} held behind them: pillarbox outbox parked"
        yield Problem(status=HealthStatus.DEGRADED, what=what)
    if _exceeds(vitals.oldest_queued_for, limits.oldest_queued):
        what = f"the oldest queued message was published {_seconds(vitals.oldest_queued_for)} ago: pillarbox consumers"
        yield Problem(status=HealthStatus.DEGRADED, what=what)
    for one in vitals.down:
        paused = ", ".join(one.needed_by) or "nobody known"
        since = _seconds(one.circuit.away_for)
        what = f"{one.dependency} has been down for {since} ({one.circuit.reason}), which pauses {paused}"
        yield Problem(status=HealthStatus.DEGRADED, what=what)
    if vitals.dead:
        yield Problem(status=HealthStatus.DEGRADED, what=f"{vitals.dead} dead letters: pillarbox dead-letters list")
    for aging in vitals.aging_letters:
        yield Problem(status=HealthStatus.DEGRADED, what=aging.told)
    yield from _problems_of_flows(vitals.flows, limits)
    yield from _problems_of_order(vitals, limits)
    yield from _problems_of_sagas(vitals, limits)


def _problems_of_sagas(vitals: Vitals, limits: HealthLimits) -> Iterator[Problem]:
    if vitals.sagas_in_need.count:
        since = _seconds(vitals.sagas_in_need.oldest_for)
        what = f"{vitals.sagas_in_need.count} sagas need attention, the oldest for {since}"
        yield Problem(status=HealthStatus.DEGRADED, what=f"{what}: pillarbox saga list --status needs_attention")
    for one in vitals.overdue_sagas:
        if _exceeds(one.oldest_for, limits.oldest_due):
            what = (
                f"a saga of {one.service} has been due for {_seconds(one.oldest_for)}: does a process run its version?"
            )
            yield Problem(status=HealthStatus.DEGRADED, what=what)


def _problems_of_flows(flows: FlowsState, limits: HealthLimits) -> Iterator[Problem]:
    if flows.stuck:
        since = _seconds(flows.oldest_for)
        what = f"{flows.stuck} processes of flows are stuck, the first for {since}: pillarbox flow stuck"
        yield Problem(status=HealthStatus.DEGRADED, what=what)
    if _exceeds(flows.unwatched_for, limits.unwatched_flow):
        waited = _seconds(flows.unwatched_for)
        what = f"nobody has looked at a flow that was due {waited} ago: does a process of its service run?"
        yield Problem(status=HealthStatus.DEGRADED, what=what)


def _problems_of_order(vitals: Vitals, limits: HealthLimits) -> Iterator[Problem]:
    """Tell of everything that waits so that an order is kept."""
    holding = vitals.holding
    for consumer in vitals.stopped:
        what = f"{consumer} is stopped by a dead letter: pillarbox dead-letters list --consumer {consumer}"
        yield Problem(status=HealthStatus.DEGRADED, what=what)
    if _exceeds(vitals.waits.oldest_for, limits.oldest_wait):
        waited = _seconds(vitals.waits.oldest_for)
        what = f"{vitals.waits.messages} messages wait for their causes, the oldest for {waited}: pillarbox held list"
        yield Problem(status=HealthStatus.DEGRADED, what=what)
    if holding.blocked:
        what = f"{holding.blocked} keys are blocked by a dead letter: pillarbox held list"
        yield Problem(status=HealthStatus.DEGRADED, what=what)
    if _exceeds(vitals.gaps.oldest_for, limits.oldest_gap):
        waited = _seconds(vitals.gaps.oldest_for)
        what = f"{vitals.gaps.buffered} messages wait for numbers that have not come, for {waited}: pillarbox gaps list"
        yield Problem(status=HealthStatus.DEGRADED, what=what)
    if _exceeds(holding.oldest_for, limits.oldest_hold):
        what = f"the oldest hold of a key has lasted for {_seconds(holding.oldest_for)}: pillarbox held list"
        yield Problem(status=HealthStatus.DEGRADED, what=what)
    if limits.fullest_key is not None and holding.fullest >= limits.fullest_key:
        what = f"a held key is full with {holding.fullest} messages, the rest stays in its channel: pillarbox held list"
        yield Problem(status=HealthStatus.DEGRADED, what=what)
    if holding.messages > limits.held_messages:
        what = f"{holding.messages} messages are held, behind {holding.keys} keys: pillarbox held list"
        yield Problem(status=HealthStatus.DEGRADED, what=what)


def _problems_of_log(log: LogState, limits: HealthLimits) -> Iterator[Problem]:
    is_quiet = log.quiet_for > limits.oldest_pending
    if not log.is_there:
        what = f"the replication slot {log.slot_name} is gone: a relay makes it anew and publishes what the table holds"
        yield Problem(status=HealthStatus.UNHEALTHY, what=what)
    elif is_quiet and not log.is_read:
        what = f"nobody reads the replication slot {log.slot_name}, and the database keeps its log: is a relay running?"
        yield Problem(status=HealthStatus.UNHEALTHY, what=what)
    elif is_quiet and log.unconfirmed_bytes > limits.unread_log:
        waited = _seconds(log.quiet_for)
        what = f"nothing left the log for {waited}, {log.unconfirmed_bytes} bytes of it wait: is the broker there?"
        yield Problem(status=HealthStatus.UNHEALTHY, what=what)
    if log.retained_bytes > limits.retained_log:
        what = f"the database keeps {log.retained_bytes} bytes of log for the replication slot {log.slot_name}"
        yield Problem(status=HealthStatus.DEGRADED, what=what)


def _exceeds(age: timedelta | None, limit: timedelta) -> bool:
    return age is not None and age > limit


def _seconds(age: timedelta | None) -> str:
    return "0 s" if age is None else f"{age.total_seconds():.0f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class VitalPorts:
    """Where the vitals are read; ``log`` is ``None`` where there is none to be tailed."""

    outbox: OutboxStore
    holding: HoldingStore
    dead_letters: DeadLetterStore
    review: DeadLetterReview
    waits: WaitStore
    gaps: Gaps
    circuits: CircuitStore
    inspection: Inspection
    sagas: SagaArchive
    flows: FlowInstances
    log: LogCheckpoints | None = None


class HealthCheck:
    """Gathers the vitals of one database and judges them."""

    def __init__(self, ports: VitalPorts, source: TransactionSource, *, replay_within: timedelta | None = None) -> None:
        """Read the tables behind ``ports``.

        Args:
            ports: where.
            source: runs what is asked.
            replay_within: how long after their last failure dead letters are replayed without force; ``None`` for ever.
        """
        self._ports = ports
        self._source = source
        self._replay_within = replay_within

    async def check(self, limits: HealthLimits = DEFAULT_LIMITS) -> Health:
        """Return how things stand now."""
        return judge(await self._source.run(self._vitals()), limits)

    def _vitals(self) -> Program[Vitals]:
        ports = self._ports
        return Vitals(
            outbox=(yield from ports.outbox.state()),
            holding=(yield from ports.holding.state()),
            oldest_queued_for=(yield from ports.inspection.oldest_queued_for()),
            dead=(yield from ports.dead_letters.count(DeadLetterFilter())),
            waits=(yield from ports.waits.state()),
            stopped=tuple(sorted((yield from ports.holding.stopped()))),
            log=None if ports.log is None else (yield from ports.log.state()),
            gaps=(yield from ports.gaps.state()),
            sagas_in_need=(yield from ports.sagas.in_need()),
            overdue_sagas=tuple((yield from ports.sagas.overdue())),
            flows=(yield from ports.flows.state()),
            aging_letters=(yield from self._aging()),
            down=tuple(one for one in (yield from ports.circuits.known()) if not one.circuit.is_closed),
        )

    def _aging(self) -> Program[tuple[AgingLetters, ...]]:
        within = self._replay_within
        if not within:  # for ever, or never without force
            return ()
        aged = yield from self._ports.review.aged(within * NEAR)
        return tuple(AgingLetters(letters=one, replay_within=within) for one in aged)
