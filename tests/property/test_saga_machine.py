"""The saga's machine against a world that fails, forgets, repeats and crashes at will (RELIABILITY I14)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

from pillarbox.retry import Retry
from pillarbox.saga.definition import Kind
from pillarbox.saga.happening import (
    Act,
    Cancelled,
    Failed,
    Happening,
    Moment,
    Refused,
    Retried,
    Sent,
    Skipped,
    Succeeded,
)
from pillarbox.saga.journal import (
    ActState,
    Direction,
    Journal,
    SagaStatus,
    decode_journal,
    encode_journal,
)
from pillarbox.saga.machine import observe, plan
from tests import effort

SECOND_US = 1_000_000
ATTEMPTS = 3
STEPS_AT_MOST = 400
RETRY = Retry(attempts=ATTEMPTS, immediate=0, first=timedelta(seconds=1), factor=1.0)
TIMEOUT = timedelta(seconds=10)
Answer = Succeeded | Refused | Failed


@dataclass(frozen=True)
class OneAct:
    kind: Kind
    retry: Retry = RETRY
    timeout: timedelta | None = TIMEOUT


@dataclass(frozen=True)
class OneStep:
    name: str
    do: OneAct
    undo: OneAct | None
    pivot: bool


@dataclass(frozen=True)
class Stages:
    stages: tuple[tuple[OneStep, ...], ...]


def shape_of(dice: Random) -> Stages:
    """Up to nine steps, some side by side, perhaps one a pivot, some without a compensation."""
    kinds = [Kind.LOCAL, Kind.OUTSIDE, Kind.REQUEST]

    def step_of(name: str, *, pivot: bool) -> OneStep:
        if dice.randrange(5) == 0:
            return OneStep(name, OneAct(Kind.CHILD), OneAct(Kind.CHILD, timeout=None), pivot)
        undo = dice.choice((None, OneAct(dice.choice(kinds))))
        return OneStep(name, OneAct(dice.choice(kinds)), undo, pivot)

    sizes = [dice.choice((1, 1, 2, 3)) for _ in range(dice.randint(1, 3))]
    pivot_at = dice.choice((None, *range(len(sizes))))
    return Stages(
        tuple(
            tuple(step_of(f"s{number}{place}", pivot=pivot_at == number and size == 1) for place in range(size))
            for number, size in enumerate(sizes)
        )
    )


@dataclass
class World:
    """Everything outside of the machine: what took effect, in order, and what is on its way back.

    Attributes:
        effects: acts that took effect, each once: keys are honoured.
        replies: what is on its way back.
        late: what comes back only when nobody waits for it any more.
        children: the steps whose children have not told of their end.
    """

    shape: Stages
    dice: Random
    now_us: int = SECOND_US
    effects: list[tuple[str, Direction]] = field(default_factory=list)
    begun: list[tuple[str, Direction]] = field(default_factory=list)
    replies: list[Answer] = field(default_factory=list)
    late: list[Answer] = field(default_factory=list)
    tombstones: set[str] = field(default_factory=set)
    children: set[str] = field(default_factory=set)

    def moment(self) -> Moment:
        return Moment(now_us=self.now_us, dice=0.5, token=f"t{self.now_us}")

    def take_effect(self, act: Act) -> bool:
        """Let ``act`` happen, unless it has, or must not any more; return whether it has happened by now."""
        if act.direction is Direction.UNDO:
            self.tombstones.add(act.step)
        elif act.step in self.tombstones:
            return False
        if (act.step, act.direction) not in self.effects:
            self.effects.append((act.step, act.direction))
        return True

    def carry_out(self, act: Act) -> Happening | None:
        """Do ``act`` as the dice say; return what is noted in its own transaction, ``None`` if nothing is."""
        self.begun.append((act.step, act.direction))
        at = {"step": act.step, "direction": act.direction, "attempt": act.attempt}
        how = self.dice.choice(["ok", "ok", "ok", "fails", "refused", "lost", "late", "twice", "fickle"])
        if act.kind is Kind.CHILD:
            return self.to_child(act, how)
        if act.kind is Kind.LOCAL:
            if how in ("fails", "lost"):
                return Failed(**at, error="failed")
            if how == "refused" and act.direction is Direction.DO:
                return Refused(**at, error="refused")
            self.take_effect(act)
            return Succeeded(**at)
        happened = how in ("ok", "late", "twice") and self.take_effect(act)
        if how == "lost" and self.dice.random() < 0.5:
            self.take_effect(act)
        if happened:
            answers = self.late if how == "late" else self.replies
            answers += [Succeeded(**at)] * (2 if how == "twice" else 1)
        elif how == "fickle" and act.direction is Direction.DO and self.take_effect(act):
            self.replies += [Refused(**at, error="refused"), Succeeded(**at)]
        elif how == "refused" and act.direction is Direction.DO:
            self.replies.append(Refused(**at, error="refused"))
        elif how == "fails" and act.kind is Kind.OUTSIDE:
            maybe = self.dice.random() < 0.5
            if maybe:
                self.take_effect(act)
            self.replies.append(Failed(**at, error="failed", maybe=True))
        return Sent(**at) if act.kind is Kind.REQUEST else None

    def to_child(self, act: Act, how: str) -> Happening:
        """Start a child, which tells of its end once, or have it undone, after which it tells of that only."""
        at = {"step": act.step, "direction": act.direction, "attempt": act.attempt}
        if act.direction is Direction.UNDO:
            self.replies = [one for one in self.replies if one.step != act.step]
            self.late = [one for one in self.late if one.step != act.step]
            self.children.discard(act.step)
        else:
            assert act.step not in self.children, "another child was started while the first may be at work"
            self.children.add(act.step)
        refuses = act.direction is Direction.DO and (how == "refused" or act.step in self.tombstones)
        if not refuses:
            self.take_effect(act)
        ended = Refused(**at, error="compensated") if refuses else Succeeded(**at)
        (self.late if how in ("late", "lost", "fails") else self.replies).append(ended)
        return Sent(**at, token=f"child of {act.step}")

    def next_reply(self) -> Answer:
        """Return one of those that are on their way."""
        reply = self.replies.pop(self.dice.randrange(len(self.replies)))
        self.children.discard(reply.step)
        return reply


def run(world: World, journal: Journal, *, verbs: bool) -> Journal:
    """Drive a saga until nothing more comes by itself and nothing is on its way."""
    for _ in range(STEPS_AT_MOST):
        if world.replies and world.dice.random() < 0.5:
            journal = again(observe(world.shape, journal, world.next_reply(), world.moment()))
        if verbs and world.dice.randrange(30) == 0 and journal.status is SagaStatus.RUNNING:
            journal = observe(world.shape, journal, Cancelled(reason="enough"), world.moment())
        planned = plan(world.shape, journal, world.moment())
        journal = again(planned.journal)  # the intents are durable before anything is done
        if world.dice.randrange(10) == 0:
            for act in planned.acts:  # the process ends: calls may have been made, transactions were rolled back
                if act.kind is Kind.OUTSIDE and world.dice.random() < 0.5:
                    world.take_effect(act)
                    world.begun.append((act.step, act.direction))
            world.now_us += SECOND_US
            continue
        for act in planned.acts:
            noted = world.carry_out(act)
            if noted is not None:
                journal = again(observe(world.shape, journal, noted, world.moment()))
        settled = plan(world.shape, journal, world.moment())
        if not settled.acts and settled.due_us is None and not world.replies:
            if not world.late:
                return again(settled.journal)
            world.replies.append(world.late.pop())
        world.now_us = max(world.now_us + 1, settled.due_us or 0) if not world.replies else world.now_us + SECOND_US
    raise AssertionError(f"no end after {STEPS_AT_MOST} rounds: {journal}")


def again(journal: Journal) -> Journal:
    """Write and read: the machine remembers nothing else."""
    return decode_journal(encode_journal(journal))


def check_end(world: World, journal: Journal) -> None:
    """Compare what the journal says with what took effect."""
    assert journal.status not in (SagaStatus.RUNNING, SagaStatus.COMPENSATING)
    steps = {step.name: step for stage in world.shape.stages for step in stage}
    done = [step for step, direction in world.effects if direction is Direction.DO]
    undone = [step for step, direction in world.effects if direction is Direction.UNDO]
    if journal.status is SagaStatus.COMPLETED:
        assert sorted(done) == sorted(steps)
        assert not undone
    if journal.status is SagaStatus.COMPENSATED:
        assert {step for step in done if steps[step].undo is not None} <= set(undone)
    places = {step: progress.place for step, progress in journal.do.items()}
    late = {entry.step for entry in journal.history if entry.what == "done late"}  # undone when that was known
    in_time = [step for step in sorted(journal.undo, key=lambda step: -places[step]) if step not in late]
    by_journal = [journal.undo[step].place for step in in_time]
    open_places = [place for place in by_journal if place]
    assert open_places == sorted(open_places), "undoing went another way than backwards"


def check_order(world: World) -> None:
    """No step is begun after the first compensation."""
    directions = [direction for _, direction in world.begun]
    if Direction.UNDO in directions:
        first = directions.index(Direction.UNDO)
        assert Direction.DO not in directions[first:]


def worlds(rng: Random) -> Iterator[World]:
    """Return worlds; what is printed of the last one makes it anew."""
    for _ in range(effort.of(50_000, 500)):
        seed = rng.getrandbits(64)
        print("world", seed)
        dice = Random(seed)
        yield World(shape_of(dice), dice)


def test_every_saga_ends_and_what_took_effect_is_what_its_journal_says(rng: Random) -> None:
    ends = Counter[SagaStatus]()
    for world in worlds(rng):
        journal = run(world, Journal(secret="s"), verbs=True)

        check_end(world, journal)
        check_order(world)
        ends[journal.status] += 1
    assert {SagaStatus.COMPLETED, SagaStatus.COMPENSATED, SagaStatus.NEEDS_ATTENTION} <= set(ends)


def test_an_operator_brings_every_stopped_saga_to_an_end(rng: Random) -> None:
    for world in worlds(rng):
        shape, journal = world.shape, run(world, Journal(secret="s"), verbs=False)
        for _ in range(60):
            if journal.status is not SagaStatus.NEEDS_ATTENTION:
                break
            journal = run(world, observe(shape, journal, verb(world, journal), world.moment()), verbs=False)
        assert journal.status in (SagaStatus.COMPLETED, SagaStatus.COMPENSATED)
        assert journal.status is SagaStatus.COMPENSATED or not journal.undo, "completed, with steps undone"


def verb(world: World, journal: Journal) -> Happening:
    """Return what an operator does next."""
    stuck = [step for step, one in journal.undo.items() if one.state is ActState.FAILED]
    stuck += [step for step, one in journal.do.items() if one.state in (ActState.FAILED, ActState.UNKNOWN)]
    which = world.dice.choice(["retry", "skip", "compensate"])
    if which == "skip" and stuck:
        return Skipped(step=stuck[0], reason="seen to")
    return Cancelled(reason="undo", forced=True) if which == "compensate" else Retried(reason="again")


def test_a_machine_that_knows_the_same_does_the_same(rng: Random) -> None:
    for world in worlds(rng):
        journal = run(world, Journal(secret="s"), verbs=True)

        assert plan(world.shape, journal, world.moment()) == plan(world.shape, again(journal), world.moment())
