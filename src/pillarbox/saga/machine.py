"""The saga's machine: from a definition, a journal and what happened to the next acts. Pure.

``observe`` notes what has happened; ``plan`` says what is to be done now, and writes down what must be durable before
it is done. Everything else, the database, the handlers and the clock, stands outside.

Rules (RELIABILITY I14): no step is begun once one has failed; nothing is undone while a step is under way; undoing goes
in the reverse order of completion, one act at a time; what may have happened is undone as well; nothing is undone past
the pivot unless an operator says so, and a cancellation that the pivot has overtaken is void; of reply, timeout and
cancellation the first one moves a step, and no reply to an earlier round of it does; while a child may be at work no
other is started for its step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from msgspec.structs import replace

from pillarbox.retry import RetryLater, RetryNow, decide
from pillarbox.saga.definition import Kind
from pillarbox.saga.happening import (
    MICROSECOND,
    Act,
    Cancelled,
    Failed,
    Happening,
    Moment,
    Plan,
    Refused,
    Retried,
    Sent,
    Skipped,
    Succeeded,
    later,
    noted,
)
from pillarbox.saga.journal import (
    GIVEN_UP,
    MAX_ERROR_CHARS,
    THROUGH,
    ActState,
    Direction,
    Journal,
    Progress,
    SagaStatus,
)
from pillarbox.saga.shape import ActShape, Shape, StepShape
from pillarbox.saga.verbs import cancelled, retried, skipped

MARGIN = timedelta(seconds=5)
"""For so long after its intent a call may begin; who was paused for longer leaves it to others."""
NOT_BEGUN = Progress(state=ActState.RETRY)


def observe(shape: Shape, journal: Journal, what: Happening, moment: Moment) -> Journal:
    """Note ``what`` has happened; what concerns nothing under way only adds to the history."""
    match what:
        case Succeeded():
            return _succeeded(shape, journal, what, moment)
        case Sent():
            return _sent(shape, journal, what, moment)
        case Refused():
            return _refused(shape, journal, what, moment)
        case Failed():
            return _failed(shape, journal, what, moment)
        case Cancelled():
            return cancelled(journal, what, moment)
        case Retried():
            return retried(journal, what, moment)
        case Skipped():
            return skipped(journal, what, moment)


def plan(shape: Shape, journal: Journal, moment: Moment) -> Plan:
    """Say what is to be done now, and write down what must be durable before it is done."""
    journal = _expired(shape, _waiting_on(shape, journal, moment), moment)
    if not journal.beyond and past_pivot(shape, journal):
        journal = replace(journal, beyond=True)
    if journal.status is SagaStatus.RUNNING:
        journal, acts = _forward(shape, journal, moment)
        if journal.status is SagaStatus.RUNNING:
            return _planned(journal, acts, moment)
    if journal.status is SagaStatus.COMPENSATING:
        journal, acts = _backward(shape, journal, moment)
        if journal.status is SagaStatus.COMPENSATING:
            return _planned(journal, acts, moment)
    return Plan(journal=journal, acts=(), due_us=None)


def past_pivot(shape: Shape, journal: Journal) -> bool:
    """Tell whether the pivot is done, or may be and cannot be undone."""
    for step in steps_of(shape):
        if step.pivot and (progress := journal.do.get(step.name)) is not None:
            if progress.state in (ActState.DONE, ActState.SKIPPED):
                return True
            if progress.state is ActState.UNKNOWN and step.undo is None:
                return True
    return False


def steps_of(shape: Shape) -> Iterator[StepShape]:
    """Return the steps in order."""
    return (step for stage in shape.stages for step in stage)


def act_of(shape: Shape, step: str, direction: Direction) -> ActShape | None:
    """Return a step's act; ``None`` if the definition has none."""
    for one in steps_of(shape):
        if one.name == step:
            return one.do if direction is Direction.DO else one.undo
    return None


# --- what happens ---


def unmade(journal: Journal, act: Act, moment: Moment) -> Journal:
    """Note that a call was not made whose intent was written down: it is due again, and was no attempt."""
    intended = journal.of(act.step, act.direction) or NOT_BEGUN
    waiting = replace(intended, state=ActState.RETRY, attempts=intended.attempts - 1, due_us=moment.now_us, token="")
    return noted(journal.with_progress(act.step, act.direction, waiting), moment, "not begun", act)


def _succeeded(shape: Shape, journal: Journal, what: Succeeded, moment: Moment) -> Journal:
    progress = journal.of(what.step, what.direction)
    if progress is not None and not _is_awaited(shape, journal, what, progress):
        return _late(journal, what, progress, moment)
    if journal.status is SagaStatus.NEEDS_ATTENTION:
        journal = replace(journal, status=SagaStatus.RUNNING)
    journal = _ended(journal, what, ActState.DONE, moment, changed=what.changed)
    return noted(journal, moment, "done", what)


def _is_awaited(shape: Shape, journal: Journal, what: Succeeded | Refused, progress: Progress) -> bool:
    """Tell whether an act may come to its end; past the pivot a child that was given up may, as it is not undone."""
    if what.round < progress.round:
        return False
    if progress.state is not ActState.UNKNOWN or not _is_child(shape, what.step, what.direction):
        return progress.state.is_open
    return journal.beyond and not (journal.forced or journal.undo)


def _is_child(shape: Shape, step: str, direction: Direction) -> bool:
    act = act_of(shape, step, direction)
    return act is not None and act.kind is Kind.CHILD and direction is Direction.DO


def _late(journal: Journal, what: Succeeded, progress: Progress, moment: Moment) -> Journal:
    """Note that an act was done after all: what counted as refused must be undone too, and an undo is through."""
    journal = noted(journal, moment, "done late", what)
    if progress.state.is_open:  # what was done in an earlier round is undone though this one is refused
        return journal.with_progress(what.step, what.direction, replace(progress, maybe=True))
    if progress.state is not ActState.FAILED:
        return journal
    if what.direction is Direction.UNDO:
        journal = _ended(journal, what, ActState.DONE, moment)
        if journal.status is SagaStatus.NEEDS_ATTENTION:
            return replace(journal, status=SagaStatus.COMPENSATING)
        return journal
    journal = _ended(journal, what, ActState.UNKNOWN, moment, error=progress.error, round_=what.round)
    if journal.status is SagaStatus.COMPENSATED:
        return replace(journal, status=SagaStatus.COMPENSATING)
    return journal


def _sent(shape: Shape, journal: Journal, what: Sent, moment: Moment) -> Journal:
    act = act_of(shape, what.step, what.direction)
    before = journal.of(what.step, what.direction) or NOT_BEGUN
    within = None if act is None else act.timeout
    progress = Progress(
        state=ActState.SENT,
        attempts=what.attempt,
        round=before.round,
        maybe=before.maybe,
        due_us=None if within is None else later(moment, within),
        token=what.token,
        error=before.error,
        changed=_all_changed(before, what.changed),
    )
    return noted(journal.with_progress(what.step, what.direction, progress), moment, "sent", what)


def _refused(shape: Shape, journal: Journal, what: Refused, moment: Moment) -> Journal:
    progress = journal.of(what.step, what.direction) or NOT_BEGUN
    if not _is_awaited(shape, journal, what, progress):
        return noted(journal, moment, "refused late", what, what.error)
    act, is_undo = act_of(shape, what.step, what.direction), what.direction is Direction.UNDO
    kind = None if act is None else act.kind
    maybe = progress.maybe and not is_undo and kind is not Kind.CHILD  # of which there is one only, and it has ended
    is_over = not is_undo and (not maybe or kind is Kind.REQUEST)  # to whose attempts of a round there is one answer
    state, round_ = ActState.UNKNOWN if maybe else ActState.FAILED, progress.round + is_over
    journal = _ended(journal, what, state, moment, error=what.error, round_=round_)
    return noted(journal, moment, "refused", what, what.error)


def _failed(shape: Shape, journal: Journal, what: Failed, moment: Moment) -> Journal:
    progress = journal.of(what.step, what.direction) or NOT_BEGUN
    act = act_of(shape, what.step, what.direction)
    if act is None or not progress.state.is_open or what.round < progress.round:
        return noted(journal, moment, "failed late", what, what.error)
    maybe = what.maybe or progress.maybe
    is_at_work = act.kind is Kind.CHILD and progress.state is ActState.SENT
    verdict = None if is_at_work else decide(act.retry, what.failure, attempt=what.attempt, dice=moment.dice)
    if isinstance(verdict, RetryNow | RetryLater):
        after = verdict.after if isinstance(verdict, RetryLater) else timedelta(0)
        waiting = Progress(
            state=ActState.RETRY,
            attempts=what.attempt,
            round=progress.round,
            maybe=maybe,
            due_us=later(moment, after),
            token=progress.token,
            error=what.error[:MAX_ERROR_CHARS],
            changed=progress.changed,
        )
        journal = journal.with_progress(what.step, what.direction, waiting)
        return noted(journal, moment, "failed", what, what.error)
    state = ActState.UNKNOWN if maybe and what.direction is Direction.DO else ActState.FAILED
    journal = _ended(journal, what, state, moment, error=what.error)
    return noted(journal, moment, "given up", what, what.error)


def _ended(
    journal: Journal,
    what: Succeeded | Refused | Failed,
    state: ActState,
    moment: Moment,
    *,
    error: str = "",
    changed: tuple[str, ...] = (),
    round_: int | None = None,
) -> Journal:
    """Return ``journal`` with an act at its end, in its place among the others."""
    before = journal.of(what.step, what.direction) or NOT_BEGUN
    progress = Progress(
        state=state,
        attempts=max(what.attempt, before.attempts, 1),
        round=before.round if round_ is None else round_,
        maybe=before.maybe,
        place=journal.places + 1,
        token=before.token,
        error=error[:MAX_ERROR_CHARS],
        changed=_all_changed(before, changed),
    )
    return journal.with_progress(what.step, what.direction, progress)


def _all_changed(before: Progress, changed: tuple[str, ...]) -> tuple[str, ...]:
    """Return the fields that a step has changed by now: what made its command stays, whatever comes of that."""
    return tuple(sorted({*before.changed, *changed})) if before.changed else changed


def _waiting_on(shape: Shape, journal: Journal, moment: Moment) -> Journal:
    """Await the same child on where a step is tried again whose child may be at work."""
    for step, progress in journal.do.items():
        if progress.state is ActState.RETRY and progress.maybe and _is_child(shape, step, Direction.DO):
            attempt = max(progress.attempts, 1)
            what = Sent(step=step, direction=Direction.DO, attempt=attempt, token=progress.token)
            journal = _sent(shape, journal, what, moment)
    return journal


def _expired(shape: Shape, journal: Journal, moment: Moment) -> Journal:
    """Give up what has not come back in time."""
    if journal.status not in (SagaStatus.RUNNING, SagaStatus.COMPENSATING):
        return journal
    for direction, acts in ((Direction.DO, journal.do), (Direction.UNDO, journal.undo)):
        for step, progress in acts.items():
            if progress.due_us is None or progress.due_us > moment.now_us or progress.state is ActState.RETRY:
                continue
            was_call = progress.state is ActState.INTENT
            error = "whoever made the call did not come back" if was_call else "no reply came in time"
            what = Failed(
                step=step,
                direction=direction,
                attempt=progress.attempts,
                round=progress.round,
                error=error,
                maybe=True,
            )
            journal = _failed(shape, journal, what, moment)
    return journal


# --- what to do ---


def _forward(shape: Shape, journal: Journal, moment: Moment) -> tuple[Journal, tuple[Act, ...]]:
    over = any(one.state in GIVEN_UP for one in journal.do.values())
    if journal.stopping and journal.beyond and not (over or journal.forced):
        journal = noted(replace(journal, stopping=""), moment, "too late to cancel")
    if over or journal.stopping:
        return _turned(shape, journal, moment), ()
    for stage in shape.stages:
        wanted = [
            (step.name, Direction.DO, step.do)
            for step in stage
            if (progress := journal.do.get(step.name)) is None or progress.state not in THROUGH
        ]
        if wanted:
            return _begun(journal, wanted, moment)
    return noted(replace(journal, status=SagaStatus.COMPLETED), moment, "completed"), ()


def _turned(shape: Shape, journal: Journal, moment: Moment) -> Journal:
    """Turn round, once nothing is under way any more; what only waits for its next attempt has none."""
    for step, progress in journal.do.items():
        if progress.state is ActState.RETRY:
            what = Refused(step=step, direction=Direction.DO, error=progress.error, attempt=progress.attempts)
            state = ActState.UNKNOWN if progress.maybe else ActState.FAILED
            journal = noted(_ended(journal, what, state, moment, error=what.error), moment, "refused", what, what.error)
    if any(progress.state.is_open for progress in journal.do.values()):
        return journal
    if (journal.beyond or past_pivot(shape, journal)) and not journal.forced:
        return noted(replace(journal, status=SagaStatus.NEEDS_ATTENTION, beyond=True), moment, "needs attention")
    return noted(replace(journal, status=SagaStatus.COMPENSATING), moment, "compensating")


def _backward(shape: Shape, journal: Journal, moment: Moment) -> tuple[Journal, tuple[Act, ...]]:
    undoable = {step.name: step.undo for step in steps_of(shape) if step.undo is not None}
    done = [
        (progress.place, step)
        for step, progress in journal.do.items()
        if step in undoable and _is_to_be_undone(shape, step, progress)
    ]
    for _, step in sorted(done, reverse=True):
        undo = journal.undo.get(step)
        if undo is None or undo.state.is_open:
            return _begun(journal, [(step, Direction.UNDO, undoable[step])], moment)
    if any(progress.state is ActState.FAILED for progress in journal.undo.values()):
        return noted(replace(journal, status=SagaStatus.NEEDS_ATTENTION), moment, "needs attention"), ()
    return noted(replace(journal, status=SagaStatus.COMPENSATED), moment, "compensated"), ()


def _is_to_be_undone(shape: Shape, step: str, progress: Progress) -> bool:
    """Tell whether a step was done or may have been; one that was skipped counts as done, whoever has done it."""
    if progress.state is ActState.SKIPPED:
        return bool(progress.token) or not _is_child(shape, step, Direction.DO)  # else there is no child
    return progress.state in (ActState.DONE, ActState.UNKNOWN)


def _begun(
    journal: Journal, wanted: Sequence[tuple[str, Direction, ActShape]], moment: Moment
) -> tuple[Journal, tuple[Act, ...]]:
    """Return what of ``wanted`` can be begun now; the intent of a call is written down first."""
    acts: list[Act] = []
    for step, direction, act in wanted:
        progress = journal.of(step, direction)
        if progress is not None and (progress.state is not ActState.RETRY or (progress.due_us or 0) > moment.now_us):
            continue
        before = progress or NOT_BEGUN
        attempt = before.attempts + 1
        acts.append(Act(step=step, direction=direction, kind=act.kind, attempt=attempt, round=before.round))
        if act.kind is Kind.OUTSIDE:
            intent = Progress(
                state=ActState.INTENT,
                attempts=attempt,
                round=before.round,
                maybe=before.maybe,
                due_us=later(moment, act.timeout or timedelta(0)) + 2 * MARGIN // MICROSECOND,
                token=moment.token,
                error=before.error,
            )
            journal = journal.with_progress(step, direction, intent)
    return journal, tuple(acts)


def _planned(journal: Journal, acts: tuple[Act, ...], moment: Moment) -> Plan:
    if any(act.kind is not Kind.OUTSIDE for act in acts):
        return Plan(journal=journal, acts=acts, due_us=moment.now_us)
    waiting = (one for one in (*journal.do.values(), *journal.undo.values()) if one.state.is_open)
    dues = [one.due_us for one in waiting if one.due_us is not None and not _is_behind(one, moment)]
    return Plan(journal=journal, acts=acts, due_us=min(dues, default=None))


def _is_behind(progress: Progress, moment: Moment) -> bool:
    """Tell whether an act whose next attempt is due was not begun: undoing waits for what is undone before it."""
    return progress.state is ActState.RETRY and (progress.due_us or 0) <= moment.now_us
