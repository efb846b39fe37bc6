"""The course of one saga through one transaction: what has come for it, what is to be done, what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from msgspec.structs import replace

from pillarbox.consumer.effects import Raised, Returned
from pillarbox.errors import InternalError, InvalidReturnError, PillarboxError
from pillarbox.errors.reading import text_of
from pillarbox.outbox import OutboxRecord
from pillarbox.retry import Failure, FailureRule
from pillarbox.saga.arrivals import UNKNOWN, kept_for_others, next_look, put_off, taken
from pillarbox.saga.context import SagaContext
from pillarbox.saga.definition import CALL_WITHIN, Kind, StepFailed
from pillarbox.saga.happening import FINAL, Act, Happening, Moment, noted
from pillarbox.saga.journal import (
    ActState,
    Arrived,
    Direction,
    Entry,
    Journal,
    SagaStatus,
    decode_journal,
    encode_journal,
    steps_under_way,
)
from pillarbox.saga.letters import Letters
from pillarbox.saga.machine import observe, plan, unmade
from pillarbox.saga.resolve import DefinedAct, Definition, Reaction
from pillarbox.saga.rules import Call, NeedsTransaction, Outcome, Rules, Surrounding
from pillarbox.saga.starting import ChildEnded
from pillarbox.saga.store import ChangedSaga, NewSaga, SagaRow
from pillarbox.saga.verdicts import Spoiled, Verdict


@dataclass(slots=True)
class Course:
    """One saga, locked, on its way through a transaction.

    Attributes:
        journal: as it is by now.
        state: as text, as it is by now.
        due_us: when to look again.
        records: what is to be published.
        children: sagas to be started, by the call of the function that asks for them.
        calls: calls to make once the transaction is durable.
        called: the functions called so far within the transaction.
        steps: how many of them are steps, or undo one; the others react to replies.
        heeded: verdicts that are over once the transaction is durable.
        unlocks: it has ended, and what it has locked is to be let go.
    """

    row: SagaRow
    definition: Definition
    rules: Rules
    journal: Journal = field(init=False)
    state: str = field(init=False)
    due_us: int | None = None
    records: list[OutboxRecord] = field(default_factory=list[OutboxRecord])
    children: dict[str, NewSaga] = field(default_factory=dict[str, NewSaga])
    calls: list[Call] = field(default_factory=list[Call])
    called: list[str] = field(default_factory=list[str])
    steps: int = 0
    heeded: list[Verdict] = field(default_factory=list[Verdict])
    unlocks: bool = False
    _before: Journal = field(init=False)
    _changed: ChangedSaga | None = None
    _moment: Moment = field(init=False)
    _letters: Letters = field(init=False)

    def __post_init__(self) -> None:
        """Read what stands in the row.

        Raises:
            DecodeError: its state or its steps do not fit the definition.
        """
        row, states = self.row, self.rules.states
        self._before = decode_journal(row.journal)
        self.journal = self.definition.adopted(self._before, version=row.version)
        self.state = row.state
        if row.version != self.definition.version:
            self.state = states.text_of(states.read_state(row.state, self.definition, row.version))
        self._letters = Letters(row, self.rules)
        self._moment = Moment(now_us=row.now_us, dice=self.rules.dice(), token=self.rules.new_token())

    @property
    def is_due(self) -> bool:
        """Whether it goes on at once."""
        return self.due_us is not None and self.due_us <= self._moment.now_us

    async def run(self, outcomes: Sequence[Outcome], around: Surrounding | None) -> None:
        """Note what has come, then do what is to be done, for as long as there is room in the transaction.

        Raises:
            Spoiled: the transaction must be rolled back and done again.
            NeedsTransaction: there is none ``around`` it; nothing was done.
        """
        for outcome in outcomes:
            self._returned(outcome)
        arrived, self.journal = taken(self.journal, self._moment)
        for reply in arrived:
            await self._answered(reply, around)
        while acts := self._next_acts(around):
            # calls first: their intents are written down, whether or not there is room for the rest
            for act in sorted(acts, key=lambda one: one.kind is not Kind.OUTSIDE):
                if not await self._carry_out(act, around):
                    self.due_us = self._moment.now_us
                    return
        if self.journal.status.is_ended and not self._before.status.is_ended:
            told = self._letters.to_parent(self.journal)
            self.records += [] if told is None else [told]
        if self.journal.status.is_ended and self.journal.locked:
            self.journal, self.unlocks = replace(self.journal, locked=False), True
        if around is None and (self.records or self.children or self.unlocks):
            raise NeedsTransaction

    def changed(self) -> ChangedSaga:
        """Return what is to be written, once it has run."""
        if self._changed is None:
            self._changed = ChangedSaga(
                key=self.row.key,
                version=self.definition.version,
                status=self.journal.status,
                steps=steps_under_way(self.journal),
                state=self.state,
                journal=encode_journal(self.journal).decode(),
                due_us=self.due_us,
            )
        return self._changed

    def news(self) -> Sequence[Entry]:
        """Return the lines that were added to the history."""
        known = self._before.history[-1] if self._before.history else None
        fresh: list[Entry] = []
        for entry in reversed(self.journal.history):
            if entry is known:
                break
            fresh.append(entry)
        return fresh[::-1]

    # --- what has come ---

    def _returned(self, outcome: Outcome) -> None:
        """Note what came of a call, if it still was this process's to make."""
        call, act = outcome.call, outcome.call.act
        progress = self.journal.of(act.step, act.direction)
        if progress is None or progress.state is not ActState.INTENT or progress.token != call.token:
            return  # somebody else's by now, or written already: the answer of that commit was lost
        answer = outcome.answer
        if answer is None:
            self.journal = unmade(self.journal, act, self._moment)
            return
        if isinstance(answer, Returned):
            answer = self._kept(act, call.given, answer, before=call.state)
        if isinstance(answer, Raised):
            self._fail(act, call.defined, answer.error, maybe=True)
        else:
            self.records += call.context.records

    async def _answered(self, reply: Arrived, around: Surrounding | None) -> None:
        """Note a reply; what it means is said by the reaction to it."""
        defined = self.definition.act(reply.step, reply.direction)
        if defined is None:
            return
        act = Act(
            step=reply.step, direction=reply.direction, kind=defined.kind, attempt=reply.attempt, round=reply.round
        )
        if defined.kind is Kind.CHILD:
            self._child_ended(act, self.rules.states.read(reply.body, ChildEnded))
            return
        kind, reaction = defined.replies.get(reply.type), defined.reactions.get(reply.type)
        if kind is None:
            kept = kept_for_others(self.journal, reply, self._moment, error=f"{reply.type} {UNKNOWN}")
            failed = act.failed(f"{reply.type} {UNKNOWN}", FINAL, maybe=True)
            self.journal = kept or observe(self.definition, self.journal, failed, self._moment)
        elif reaction is None or not self._is_awaited(act):  # of the latter nobody says any more what it means
            late = noted(self.journal, self._moment, "answered late", act, reply.type)
            self.journal = late if reaction else observe(self.definition, self.journal, act.succeeded(), self._moment)
        else:
            state = self._state()
            given = (state, self.rules.states.read_reply(reply, kind))
            context = self._context(act, defined)
            answer = await self._within(
                reaction, given, context, failures=defined.failures, around=around, timeout=CALL_WITHIN
            )
            if isinstance(answer, Returned):
                answer = self._kept(act, state, answer, before=self.state)
                if isinstance(answer, Raised) and reaction.signature.transaction is not None:
                    raise Spoiled(self.row.key, self.called[-1], answer.error)
            if isinstance(answer, Returned):
                self.records += context.records
            elif isinstance(answer.error, StepFailed):
                self._fail(act, defined, answer.error, maybe=False)
            else:
                why = f"the reaction to {reply.type} failed: {self._text(answer.error)}"
                failure = self._judged(answer.error, defined.failures)
                put = put_off(self.journal, reply, failure, self._moment, error=why)
                if put is None:
                    self._observe(act.failed(why, FINAL, maybe=True))
                else:
                    self.journal = put

    def _is_awaited(self, act: Act) -> bool:
        """Tell whether a reply is the first that says how ``act`` ended, or may say that a refusal was none."""
        progress = self.journal.of(act.step, act.direction)
        return progress is not None and (progress.state.is_open or progress.state is ActState.FAILED)

    def _child_ended(self, act: Act, ended: ChildEnded) -> None:
        has_done = (ended.status == SagaStatus.COMPLETED) is (act.direction is Direction.DO)
        if has_done:
            self._observe(act.succeeded())
        else:
            error = f"the child was {ended.status}" + (f": {ended.reason}" if ended.reason else "")
            self._observe(act.refused(error))

    # --- what is to be done ---

    def _next_acts(self, around: Surrounding | None) -> Sequence[Act]:
        planned = plan(self.definition, self.journal, self._moment)
        if around is not None and not around.may_be_followed_by(planned.acts, steps=self.steps):
            self.due_us = self._moment.now_us  # the intents of calls are for a transaction that calls can follow
            return ()
        self.journal, self.due_us = planned.journal, next_look(planned.journal, planned.due_us)
        return planned.acts

    async def _carry_out(self, act: Act, around: Surrounding | None) -> bool:
        """Do ``act``, or prepare it; return whether there was room for it in this transaction."""
        defined = self.definition.act(act.step, act.direction)
        if defined is None:
            raise InternalError(f"{self.definition.name} has no {act.direction} of {act.step!r}")
        if defined.kind is Kind.CHILD and act.direction is Direction.UNDO:
            self.records.append(self._letters.undo_child(act, self.definition, self.journal))
            self._observe(act.sent())
            return True
        needs_transaction = defined.signature.transaction is not None
        if needs_transaction and self.steps and around is not None and not around.has_room():
            return False
        state, context = self._state(), self._context(act, defined)
        if defined.kind is Kind.OUTSIDE:
            call = Call(
                key=self.row.key,
                act=act,
                defined=defined,
                given=state,
                state=self.state,
                context=context,
                token=self._moment.token,
            )
            self.calls.append(call)
            return True
        self.steps += needs_transaction
        timeout = defined.timeout if defined.kind is Kind.LOCAL else CALL_WITHIN  # theirs: how long to await a reply
        answer = await self._within(
            defined, (state,), context, failures=defined.failures, around=around, timeout=timeout
        )
        if isinstance(answer, Returned):
            answer = self._done(act, defined, state, answer, context)
            if isinstance(answer, Raised) and needs_transaction:  # what it has written must not stay
                raise Spoiled(self.row.key, self.called[-1], answer.error)
        if isinstance(answer, Raised):
            self._fail(act, defined, answer.error, maybe=False)
        else:
            self.records += context.records
        return True

    def _done(
        self, act: Act, defined: DefinedAct, state: object, answer: Returned, context: SagaContext
    ) -> Returned | Raised:
        """Note what a function has done in the transaction, or asks for."""
        if defined.kind is Kind.LOCAL:
            return self._kept(act, state, answer, before=self.state)
        try:
            if defined.kind is Kind.CHILD:
                child = self._letters.child(act, defined.child, answer.value, self.journal)
                self.state, changed = self._merged(act, state, before=self.state)
                self.children[self.called[-1]] = child
                self._observe(act.sent(child.key.saga_id, changed=changed))
                return answer
            record = self._letters.request(act, answer.value, tuple(defined.replies), self.journal)
            self.state, changed = self._merged(act, state, before=self.state)
        except PillarboxError as error:
            return Raised(error, touched=False)
        self.records.append(record)
        self._observe(act.sent(changed=changed))
        return answer

    def _kept(self, act: Act, state: object, answer: Returned, *, before: str) -> Returned | Raised:
        """Keep the state that a function left behind, and note that the act is done."""
        if answer.value is not None:
            if not isinstance(answer.value, self.definition.state):
                where, found = f"step {act.step!r} of {self.definition.saga}", type(answer.value).__qualname__
                wanted = f"{self.definition.state.__qualname__}, or None"
                return Raised(InvalidReturnError(consumer=where, returned=found, wanted=wanted), touched=False)
            state = answer.value
        try:
            self.state, changed = self._merged(act, state, before=before)
        except PillarboxError as error:
            return Raised(error, touched=False)
        self._observe(act.succeeded(changed))
        return answer

    def _merged(self, act: Act, state: object, *, before: str) -> tuple[str, tuple[str, ...]]:
        """Return the state with what a function made of ``before``, and the fields that a parallel step changed.

        Raises:
            InvalidMessageError: it cannot be carried, or a step beside this one has changed one of them too.
        """
        after, step = self.rules.states.text_of(state), self.definition.step(act.step)
        if step is None or not step.is_parallel or act.direction is Direction.UNDO:
            return after, ()
        taken = self._changed_beside(act.step)
        return self.rules.states.merged(self.state, before, after, kind=self.definition.state, taken=taken)

    def _changed_beside(self, step: str) -> frozenset[str]:
        stage = next(stage for stage in self.definition.stages if any(one.name == step for one in stage))
        beside = (self.journal.do.get(one.name) for one in stage if one.name != step)
        return frozenset(name for progress in beside if progress is not None for name in progress.changed)

    # --- with what ---

    async def _within(
        self,
        one: DefinedAct | Reaction,
        given: tuple[object, ...],
        context: SagaContext,
        *,
        failures: Sequence[FailureRule],
        around: Surrounding | None,
        timeout: timedelta | None,
    ) -> Returned | Raised:
        """Call a function in the transaction, unless it failed in one that was rolled back.

        Raises:
            Spoiled: it failed after it had written, or the database asks for the transaction again.
            NeedsTransaction: there is none.
        """
        if around is None:
            raise NeedsTransaction
        self.called.append(f"{context.direction}:{context.step}:{context.attempt}:{one.function.__qualname__}")
        verdict = (self.row.key, self.called[-1])
        if (error := around.verdicts.error_of(verdict)) is not None:
            self.heeded.append(verdict)
            return Raised(error, touched=False)
        answer = await self.rules.invoker.within(
            one.function,
            one.signature,
            given,
            context,
            connection=around.connection,
            watch=around.watch,
            timeout=timeout,
        )
        if isinstance(answer, Raised):
            error = answer.error
            is_business = isinstance(error, StepFailed)
            is_conflict = answer.inherited or (not is_business and self._judged(error, failures).kind == "conflict")
            if answer.touched or is_conflict:
                raise Spoiled(*verdict, error, is_conflict=is_conflict) from error
        if context.locks.has_taken:
            self.journal = replace(self.journal, locked=True)
        return answer

    def _fail(self, act: Act, defined: DefinedAct, error: Exception, *, maybe: bool) -> None:
        """Note that an attempt failed."""
        text = self._text(error)
        if isinstance(error, StepFailed):
            self._observe(act.refused(text))
            return
        failure = self._judged(error, defined.failures)
        if failure.kind == "conflict":  # of a call, or of too many transactions in a row
            failure = Failure(kind="transient")
        self._observe(act.failed(text, failure, maybe=maybe and defined.kind is Kind.OUTSIDE))

    def _judged(self, error: Exception, failures: Sequence[FailureRule]) -> Failure:
        translated = self.rules.translate(error)
        return self.rules.classification.saying(*failures).classify(translated, now=self.rules.now())

    def _observe(self, what: Happening) -> None:
        self.journal = observe(self.definition, self.journal, what, self._moment)

    def _state(self) -> object:
        return self.rules.states.read(self.state, self.definition.state)

    def _text(self, error: Exception) -> str:
        name, text = type(error).__qualname__, text_of(error)
        return self.rules.redact(f"{name}: {text}" if text else name)

    def _context(self, act: Act, defined: DefinedAct) -> SagaContext:
        return SagaContext(
            self.row.key,
            act,
            outbox=self.rules.outbox,
            origin=self._letters.origin,
            calls=self.rules.calls if defined.kind is Kind.OUTSIDE else None,
            locks=self.rules.locks,
        )
