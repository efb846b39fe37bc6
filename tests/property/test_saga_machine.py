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
    UNKNOWN_FAILURE,
    Act,
    Cancelled,
    Failed,
    Happening,
    Moment,
    Refused,
    Retried,
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
from tests.unit.saga.stage import OneAct, OneStep, Stages

SECOND_US = 1_000_000
ATTEMPTS = 3
STEPS_AT_MOST = 400
RETRY = Retry(attempts=ATTEMPTS, immediate=0, first=timedelta(seconds=1), factor=1.0)
TIMEOUT = timedelta(seconds=10)
Answer = Succeeded | Refused | Failed


def act_of(kind: Kind, timeout: timedelta | None = TIMEOUT) -> OneAct:
    return OneAct(kind, RETRY, timeout)


def shape_of(dice: Random) -> Stages:
    """Up to nine steps, some side by side, perhaps one a pivot, some without a compensation."""
    kinds = [Kind.LOCAL, Kind.OUTSIDE, Kind.REQUEST]

    def step_of(name: str, *, pivot: bool) -> OneStep:
        if dice.randrange(5) == 0:
            return OneStep(name, act_of(Kind.CHILD), act_of(Kind.CHILD, timeout=None), pivot)
        undo = dice.choice((None, act_of(dice.choice(kinds))))
        return OneStep(name, act_of(dice.choice(kinds)), undo, pivot)

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
        rounds: in which round an act took effect, under whose key alone it is known.
        answers: what participants have answered, and in which round; they give the same answer to all of its attempts.
        fickle: the steps whose participants keep no answers, and contradict themselves.
        replies: what is on its way back.
        late: what comes back only when nobody waits for it any more.
        children: the steps whose children have not told of their end, and the rounds that these are of.
        is_mended: nothing fails any more.
    """

    shape: Stages
    dice: Random
    now_us: int = SECOND_US
    effects: list[tuple[str, Direction]] = field(default_factory=list)
    begun: list[tuple[str, Direction]] = field(default_factory=list)
    rounds: dict[tuple[str, Direction], int] = field(default_factory=dict)
    answers: dict[tuple[str, Direction], tuple[int, type[Succeeded | Refused]]] = field(default_factory=dict)
    fickle: set[str] = field(default_factory=set)
    replies: list[Answer] = field(default_factory=list)
    late: list[Answer] = field(default_factory=list)
    tombstones: set[str] = field(default_factory=set)
    children: set[tuple[str, int]] = field(default_factory=set)
    is_mended: bool = False

    def moment(self) -> Moment:
        return Moment(now_us=self.now_us, dice=0.5, token=f"t{self.now_us}")

    def take_effect(self, act: Act) -> bool:
        """Let ``act`` happen, unless it has, or must not any more; return whether it has happened by now."""
        if act.direction is Direction.UNDO:
            self.tombstones.add(act.step)
        elif act.step in self.tombstones:
            return False
        of = act.step, act.direction
        if of not in self.effects:
            self.effects.append(of)
            self.rounds[of] = act.round
        known = self.rounds[of] == act.round or act.step in self.fickle or act.kind is Kind.CHILD
        assert known, f"{act} was done in round {self.rounds[of]}"
        return True

    def carry_out(self, act: Act) -> Happening | None:
        """Do ``act`` as the dice say; return what is noted in its own transaction, ``None`` if nothing is."""
        self.begun.append((act.step, act.direction))
        how = self.dice.choice(["ok", "ok", "ok", "fails", "refused", "lost", "late", "twice", "fickle"])
        how = "ok" if self.is_mended else how
        if act.kind is Kind.CHILD:
            return self.to_child(act, how)
        if act.kind is Kind.REQUEST:
            self.to_participant(act, how)
            return act.sent()
        if act.kind is Kind.OUTSIDE:
            self.to_the_outside(act, how)
            return None
        if how in ("fails", "lost"):
            return act.failed("failed", UNKNOWN_FAILURE, maybe=False)
        if how == "refused" and act.direction is Direction.DO:
            return act.refused("refused")
        self.take_effect(act)
        return act.succeeded()

    def to_the_outside(self, act: Act, how: str) -> None:
        """Make a call: whoever is called knows what was done under a key, which is one of each round."""
        if how in ("ok", "late", "twice") and self.take_effect(act):
            answers = self.late if how == "late" else self.replies
            answers += [act.succeeded()] * (2 if how == "twice" else 1)
        elif how == "refused" and act.direction is Direction.DO:
            self.replies.append(act.refused("refused"))
        elif how in ("fails", "lost"):
            maybe = self.dice.random() < 0.5
            if maybe:
                self.take_effect(act)
            if how == "fails":
                self.replies.append(act.failed("failed", UNKNOWN_FAILURE, maybe=True))

    def to_participant(self, act: Act, how: str) -> None:
        """Ask by a command: what was answered in the round or a later one is answered again, and nothing is done."""
        of = act.step, act.direction
        if act.step in self.fickle or (how == "fickle" and act.direction is Direction.DO and of not in self.answers):
            self.fickle.add(act.step)
            if how != "fails" and self.take_effect(act):
                self.replies += [] if self.is_mended else [act.refused("refused")]
                self.replies.append(act.succeeded())
            return
        if of in self.answers and self.answers[of][0] >= act.round:
            answer = self.answers[of][1]
        elif how in ("fails", "fickle"):
            return  # its handler does not come to an end, or never heard of it
        elif how == "refused" and act.direction is Direction.DO and act.step not in self.tombstones:
            answer = Refused
        elif self.take_effect(act):
            answer = Succeeded
        else:
            return  # its undo has come before
        self.answers.setdefault(of, (act.round, answer))
        if self.answers[of][0] < act.round:
            self.answers[of] = act.round, answer
        told = act.succeeded() if answer is Succeeded else act.refused("refused")
        if how != "lost":
            (self.late if how == "late" else self.replies).append(told)

    def to_child(self, act: Act, how: str) -> Happening:
        """Start a child, which tells of its end, or have it undone, after which it tells of that only.

        One that was compensated may tell so once more, when a refused step of its own turns out to have been done.
        """
        if act.direction is Direction.UNDO:
            self.replies = [one for one in self.replies if one.step != act.step]
            self.late = [one for one in self.late if one.step != act.step]
            self.children = {one for one in self.children if one[0] != act.step}
        else:
            at_work = [step for step, _ in self.children]
            assert act.step not in at_work, "another child was started while the first may be at work"
            self.children.add((act.step, act.round))
        refuses = act.direction is Direction.DO and (how == "refused" or act.step in self.tombstones)
        if not refuses:
            self.take_effect(act)
        ended = act.refused("compensated") if refuses else act.succeeded()
        (self.late if how in ("late", "lost", "fails") else self.replies).append(ended)
        if refuses and self.dice.random() < 0.5:
            self.late.append(ended)
        return act.sent(f"child of {act.step}")

    def next_reply(self) -> Answer:
        """Return one of those that are on their way."""
        reply = self.replies.pop(self.dice.randrange(len(self.replies)))
        if reply.direction is Direction.DO:
            self.children.discard((reply.step, reply.round))
        return reply


def run(world: World, journal: Journal, *, verbs: bool) -> Journal:
    """Drive a saga until nothing more comes by itself and nothing is on its way."""
    for _ in range(STEPS_AT_MOST):
        if world.replies and world.dice.random() < 0.5:
            journal = again(observe(world.shape, journal, world.next_reply(), world.moment()))
        if verbs and world.dice.randrange(30) == 0 and journal.status is SagaStatus.RUNNING:
            journal = observe(world.shape, journal, Cancelled(reason="enough"), world.moment())
        is_stopped = journal.status is SagaStatus.NEEDS_ATTENTION and not journal.undo
        if verbs and is_stopped and world.dice.randrange(3) == 0:
            journal = observe(world.shape, journal, Retried(reason="again"), world.moment())
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
        if journal.status is SagaStatus.COMPENSATED:
            seen_to = {step for step, one in journal.undo.items() if one.state is ActState.SKIPPED}
            undoable = {step.name for stage in shape.stages for step in stage if step.undo is not None} - seen_to
            done = {step for step, direction in world.effects if direction is Direction.DO}
            assert {(step, Direction.UNDO) for step in done & undoable} <= {*world.effects}, "done, and not undone"


def verb(world: World, journal: Journal) -> Happening:
    """Return what an operator does next."""
    stuck = [step for step, one in journal.undo.items() if one.state is ActState.FAILED]
    stuck += [step for step, one in journal.do.items() if one.state in (ActState.FAILED, ActState.UNKNOWN)]
    which = world.dice.choice(["retry", "skip", "compensate"])
    if which == "skip" and stuck:
        return Skipped(step=stuck[0], reason="seen to")
    return Cancelled(reason="undo", forced=True) if which == "compensate" else Retried(reason="again")


def test_what_stopped_past_its_pivot_completes_by_retries_once_everybody_is_mended(rng: Random) -> None:
    """One to hear the answer that is kept, if it was never heard, and another one that is a round of its own."""
    stopped = 0
    for world in worlds(rng):
        journal = run(world, Journal(secret="s"), verbs=False)
        if journal.status is not SagaStatus.NEEDS_ATTENTION or journal.undo:
            continue
        stopped += 1
        world.is_mended = True
        for _ in range(2):
            if journal.status is SagaStatus.NEEDS_ATTENTION:
                tried = observe(world.shape, journal, Retried(reason="mended"), world.moment())
                journal = run(world, tried, verbs=False)

        assert journal.status is SagaStatus.COMPLETED
        check_end(world, journal)
    assert stopped


def test_a_machine_that_knows_the_same_does_the_same(rng: Random) -> None:
    for world in worlds(rng):
        journal = run(world, Journal(secret="s"), verbs=True)

        assert plan(world.shape, journal, world.moment()) == plan(world.shape, again(journal), world.moment())
