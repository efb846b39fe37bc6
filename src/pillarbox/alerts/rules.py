"""When somebody is alerted: decisions over events and health, pure but for what they remember."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from pillarbox.alerts.alert import Fact
from pillarbox.control import Vitals
from pillarbox.control.aging import AgingLetters
from pillarbox.errors.values import NO_NEGATIVE_TIME, SOME_TIME, Bounds, check_values
from pillarbox.observe import (
    BreakerOpened,
    ConsumerStopped,
    Event,
    FlowStuck,
    GapFound,
    GapSkipped,
    HeldKeyFull,
    LogGapFound,
    MessageDead,
    RecordParked,
    SagaNeedsAttention,
    SagaUnreadable,
    WorkerFaltered,
)

BREAKER_OPENED = "breaker-opened"
MOST_SUBJECTS = 1_000
"""How many subjects are remembered; the one untouched longest is forgotten first."""
SETTLEMENT = "pillarbox dead-letters list"
SOME_OR_OUT = Bounds(least=1, none="to leave it out")
AGE_OR_OUT = Bounds(least=timedelta(0), none="to leave it out")
ATTENTION = "pillarbox saga list --status needs_attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRules:
    """What is worth an alert; ``None`` leaves a rule out, or ``False`` where it is on or off.

    A *group* is what failed for the same cause, as dead letters are grouped.

    Attributes:
        dead_letter: the first dead letter of a group.
        regression_after: another one of a group that was resolved, or has been quiet for so long in every process
            (``dead-letter-again``).
        dead_letters: so many dead letters of one consumer ``within`` that time (``dead-letter-rate``).
        within: for the rate of dead letters, and for a worker that falters.
        aging_letters: dead letters of a consumer are near the age beyond which only force replays them, or past it.
        held_key: a key is held by a dead letter, or by a record that the broker does not take.
        full_key: a held key has as many messages as it may, and its channel keeps the rest.
        consumer_stopped: a dead letter has stopped a consumer, in every process.
        gap: numbers of a key have not come, or a consumer goes on without them.
        breaker_opened: a dependency is down, and its consumers pause.
        saga_stuck: a saga needs attention (``saga-needs-attention``), or cannot be read (``saga-unreadable``).
        flow_stuck: something of a flow did not come in time.
        falters: a worker has met so many errors ``within`` that time: it does not get on (``worker-falters``).
        oldest_pending: the oldest record of the outbox waits longer.
        oldest_queued: the oldest message in the database's own queues was published longer ago: consumers have stopped,
            or do not keep up.
        oldest_held: the oldest hold of a key has lasted longer.
        held_messages: more messages are held, behind all keys together.
        oldest_saga_in_need: the saga that has needed attention for longest has done so for longer.
        oldest_due_saga: a saga has been due for longer, and nobody has looked at it.
        watch_every: how often these ages are looked at, by one process of the service.
        repeat_after: for so long nothing more is said about a subject under the same rule; what happens meanwhile is
            counted, and told of then.
    """

    dead_letter: bool = True
    regression_after: timedelta | None = timedelta(hours=24)
    dead_letters: int | None = 20
    within: timedelta = timedelta(minutes=1)
    aging_letters: bool = True
    held_key: bool = True
    full_key: bool = True
    consumer_stopped: bool = True
    gap: bool = True
    breaker_opened: bool = True
    saga_stuck: bool = True
    flow_stuck: bool = True
    falters: int | None = 10
    oldest_pending: timedelta | None = timedelta(minutes=1)
    oldest_queued: timedelta | None = timedelta(minutes=10)
    oldest_held: timedelta | None = timedelta(hours=1)
    held_messages: int | None = 10_000
    oldest_saga_in_need: timedelta | None = timedelta(hours=1)
    oldest_due_saga: timedelta | None = timedelta(minutes=1)
    watch_every: timedelta = timedelta(seconds=15)
    repeat_after: timedelta = timedelta(minutes=15)

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        check_values(
            self,
            within=SOME_TIME,
            watch_every=SOME_TIME,
            repeat_after=NO_NEGATIVE_TIME,
            dead_letters=SOME_OR_OUT,
            falters=SOME_OR_OUT,
            held_messages=SOME_OR_OUT,
            regression_after=AGE_OR_OUT,
            oldest_pending=AGE_OR_OUT,
            oldest_queued=AGE_OR_OUT,
            oldest_held=AGE_OR_OUT,
            oldest_saga_in_need=AGE_OR_OUT,
            oldest_due_saga=AGE_OR_OUT,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a rule has found; whether it becomes an alert depends on what was told before."""

    rule: str
    subject: str
    text: str
    facts: Mapping[str, Fact] = field(default_factory=dict[str, Fact])


class Rates:
    """Counts what happens to each subject within a sliding time."""

    def __init__(self, count: int | None, within: timedelta) -> None:
        """Look for ``count`` times ``within``; ``None`` never finds any."""
        self._count = count
        self._within_s = within.total_seconds()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def reached(self, subject: str, at: float) -> bool:
        """Note one more; tell whether there are so many now, and start anew if there are."""
        if self._count is None:
            return False
        times = self._times.setdefault(subject, deque(maxlen=self._count))
        self._times.move_to_end(subject)
        while len(self._times) > MOST_SUBJECTS:
            self._times.popitem(last=False)
        times.append(at)
        if len(times) < self._count or at - times[0] > self._within_s:
            return False
        times.clear()
        return True


class Judge:
    """Finds in events and vitals what the rules ask for."""

    def __init__(self, rules: AlertRules) -> None:
        """Begin with nothing remembered."""
        self._rules = rules
        self._dying = Rates(rules.dead_letters, rules.within)
        self._faltering = Rates(rules.falters, rules.within)

    def of_event(self, event: Event, at: float) -> Iterator[Finding]:
        """Return what ``event`` is a reason for; ``at`` is in seconds of a clock that does not go back."""
        if isinstance(event, MessageDead):
            yield from self._of_dead(event, at)
        elif isinstance(event, RecordParked) and self._rules.held_key:
            what = f"a record for {event.destination} is parked, and its key held ({event.reason})"
            text = f"{what}: pillarbox outbox parked"
            yield Finding(rule="held-key", subject=event.destination, text=text, facts={"message_id": event.message_id})
        elif isinstance(event, BreakerOpened) and self._rules.breaker_opened:
            yield _opened(event)
        elif isinstance(event, FlowStuck) and self._rules.flow_stuck:
            yield _stuck(event)
        elif isinstance(event, WorkerFaltered):
            if self._faltering.reached(event.worker, at):
                text = f"{event.worker} does not get on: {event.error_type} again and again; see the log"
                facts = {"error_type": event.error_type}
                yield Finding(rule="worker-falters", subject=event.worker, text=text, facts=facts)
        else:
            yield from self._of_order(event)

    def _of_order(self, event: Event) -> Iterator[Finding]:
        if isinstance(event, LogGapFound) and not event.healed:
            yield Finding(rule="log-gap", subject="outbox", text=f"events may be lost: {event.reason}")
        elif isinstance(event, ConsumerStopped) and self._rules.consumer_stopped:
            text = f"{event.consumer} is stopped by a dead letter, in every process: {SETTLEMENT}"
            facts = {"message_id": event.message_id}
            yield Finding(rule="consumer-stopped", subject=event.consumer, text=text, facts=facts)
        elif isinstance(event, HeldKeyFull) and self._rules.full_key:
            yield _full(event)
        elif isinstance(event, (GapFound, GapSkipped)) and self._rules.gap:
            what = "goes on without" if isinstance(event, GapSkipped) else "waits for"
            text = f"{event.consumer} {what} numbers {event.first} to {event.last} of a key: pillarbox gaps"
            subject = f"{event.consumer} {event.channel}"
            yield Finding(rule="gap", subject=subject, text=text, facts={"first": event.first, "last": event.last})
        elif isinstance(event, SagaNeedsAttention) and self._rules.saga_stuck:
            text = f"a saga of {event.saga} can neither go on nor be undone: {ATTENTION}"
            yield Finding(rule="saga-needs-attention", subject=event.saga, text=text)
        elif isinstance(event, SagaUnreadable) and self._rules.saga_stuck:
            text = f"the state of a saga of {event.saga} version {event.version} cannot be read: pillarbox saga check"
            version: dict[str, Fact] = {"version": event.version}
            yield Finding(rule="saga-unreadable", subject=event.saga, text=text, facts=version)

    def _of_dead(self, event: MessageDead, at: float) -> Iterator[Finding]:
        what = f"{event.error_type or event.reason} in {event.consumer}"
        facts: dict[str, Fact] = {
            "consumer": event.consumer,
            "message_id": event.message_id,
            "reason": event.reason,
            "attempts": event.attempts,
            "error_type": event.error_type,
            "group": event.group,
        }
        subject = f"{event.consumer} {event.group}".rstrip()
        quiet, rules = event.quiet_for, self._rules
        if quiet is None and rules.dead_letter:
            yield Finding(
                rule="dead-letter", subject=subject, text=f"a message is dead: {what}: {SETTLEMENT}", facts=facts
            )
        elif quiet is not None and self._is_regression(quiet, was_resolved=event.regressed):
            since = f"after {quiet}{', though that was resolved' if event.regressed else ''}"
            text = f"messages die again, {since}: {what}: {SETTLEMENT}"
            yield Finding(rule="dead-letter-again", subject=subject, text=text, facts={**facts, "quiet_for": quiet})
        if self._dying.reached(event.consumer, at):
            text = f"{rules.dead_letters} messages of {event.consumer} died within {rules.within}: {SETTLEMENT}"
            yield Finding(rule="dead-letter-rate", subject=event.consumer, text=text, facts=facts)
        if event.holds_key and rules.held_key:
            text = f"a key of {event.consumer} is held until somebody decides about its dead letter: pillarbox held"
            yield Finding(rule="held-key", subject=event.consumer, text=text, facts=facts)

    def _is_regression(self, quiet: timedelta, *, was_resolved: bool) -> bool:
        after = self._rules.regression_after
        return after is not None and (was_resolved or quiet >= after)

    def of_vitals(self, vitals: Vitals) -> Iterator[Finding]:
        """Return what has waited too long, and whether too much waits."""
        rules = self._rules
        ages = (
            ("oldest-pending", "outbox", vitals.outbox.oldest_for, rules.oldest_pending, "the oldest pending record"),
            ("oldest-queued", "queues", vitals.oldest_queued_for, rules.oldest_queued, "the oldest queued message"),
            ("oldest-held", "holding", vitals.holding.oldest_for, rules.oldest_held, "the oldest held key"),
            (
                "oldest-saga-in-need",
                "sagas",
                vitals.sagas_in_need.oldest_for,
                rules.oldest_saga_in_need,
                "the oldest saga that needs attention",
            ),
            *(
                ("oldest-due-saga", one.service, one.oldest_for, rules.oldest_due_saga, f"a due saga of {one.service}")
                for one in vitals.overdue_sagas
            ),
        )
        for rule, subject, age, limit, what in ages:
            if age is not None and limit is not None and age > limit:
                text = f"{what} has waited for {age.total_seconds():.0f} s: pillarbox health"
                yield Finding(rule=rule, subject=subject, text=text, facts={"age": age})
        if rules.aging_letters:
            yield from map(_aging, vitals.aging_letters)
        held = vitals.holding.messages
        if rules.held_messages is not None and held > rules.held_messages:
            text = f"{held} messages are held, behind {vitals.holding.keys} keys: pillarbox held list"
            yield Finding(rule="held-messages", subject="holding", text=text, facts={"messages": held})


def _aging(aging: AgingLetters) -> Finding:
    letters = aging.letters
    facts: dict[str, Fact] = {
        "letters": letters.count,
        "age": letters.oldest_for,
        "replay_within": aging.replay_within,
        "left": aging.left,
    }
    return Finding(rule="aging-letters", subject=letters.consumer, text=aging.told, facts=facts)


def _opened(event: BreakerOpened) -> Finding:
    wait = f"{event.retry_after.total_seconds():.0f} s"
    text = f"{event.dependency} is down ({event.error_type}); what needs it pauses, the next probe is in {wait}"
    facts: dict[str, Fact] = {"error_type": event.error_type, "openings": event.openings}
    return Finding(rule=BREAKER_OPENED, subject=event.dependency, text=text, facts=facts)


def _full(event: HeldKeyFull) -> Finding:
    what = f"a held key of {event.consumer} is full with {event.limit} messages, its channel keeps the rest"
    text = (
        f"{what}: replay or discard its dead letter, or skip its head: pillarbox held list --consumer {event.consumer}"
    )
    facts: dict[str, Fact] = {"message_id": event.message_id, "limit": event.limit}
    return Finding(rule="full-key", subject=event.consumer, text=text, facts=facts)


def _stuck(event: FlowStuck) -> Finding:
    text = f"{event.flow} is stuck: {'; '.join(event.missing)}: pillarbox flow trace {event.correlation_id}"
    facts: dict[str, Fact] = {"correlation_id": event.correlation_id, "culprit": event.culprit}
    return Finding(rule="flow-stuck", subject=f"{event.flow} {event.culprit}".rstrip(), text=text, facts=facts)
