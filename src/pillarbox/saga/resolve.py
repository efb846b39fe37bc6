"""From declared sagas to definitions: everything that can be wrong is found here, before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import groupby
from typing import Any
from zlib import crc32

import msgspec

from pillarbox.consumer import Provider
from pillarbox.consumer.injection import Signature, signature_of
from pillarbox.errors import ConfigurationError, DecodeError, InvalidSetupError, UnsatisfiedInjectionError
from pillarbox.errors.values import SOME_TIME, check_values
from pillarbox.message import Upcaster, is_message, message_type_of
from pillarbox.message.names import full_name
from pillarbox.retry import FailureRule, Retry
from pillarbox.saga.context import SagaContext
from pillarbox.saga.definition import (
    ANSWER_WITHIN,
    CALL_WITHIN,
    LASTING_RETRY,
    ONCE,
    STEP_RETRY,
    ActDeclaration,
    Kind,
    Saga,
    StepDeclaration,
)
from pillarbox.saga.journal import Direction, Journal

DEFAULT_TIMEOUTS: Mapping[Kind, timedelta | None] = {
    Kind.LOCAL: CALL_WITHIN,
    Kind.OUTSIDE: CALL_WITHIN,
    Kind.REQUEST: ANSWER_WITHIN,
    Kind.CHILD: None,
}
_OURS = Provider(factory=object, scope="message")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """What is called when a certain reply has come."""

    function: Callable[..., object]
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinedAct:
    """One direction of a step, checked and ready.

    Attributes:
        replies: by logical name, the classes of the messages that answer it.
        reactions: by logical name, what is called with them.
        child: the identity of the saga that is started.
    """

    kind: Kind
    function: Callable[..., object]
    signature: Signature
    retry: Retry
    timeout: timedelta | None
    failures: Sequence[FailureRule]
    replies: Mapping[str, type[object]] = field(default_factory=dict[str, type[object]])
    reactions: Mapping[str, Reaction] = field(default_factory=dict[str, Reaction])
    child: Saga[Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinedStep:
    """A step, checked and ready."""

    name: str
    do: DefinedAct
    undo: DefinedAct | None
    pivot: bool
    is_parallel: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A saga of one box, checked and ready.

    Attributes:
        saga: its identity, ``<service>/<name>``.
        version: of its steps and state.
        state: the class of its state.
        upcasters: what turns states of older versions into the next one's.
        stages: its steps in order; those of a stage run side by side.
        digest: of its graph; an instance keeps that of the steps it goes through.
    """

    saga: str
    version: int
    state: type[object]
    upcasters: Mapping[int, Upcaster]
    stages: tuple[tuple[DefinedStep, ...], ...]
    digest: str = field(init=False)
    _steps: dict[str, DefinedStep] = field(default_factory=dict[str, DefinedStep], init=False, repr=False)

    def __post_init__(self) -> None:
        """Index the steps by name."""
        object.__setattr__(self, "digest", f"{crc32(self.graph().encode()):08x}")
        self._steps.update({step.name: step for stage in self.stages for step in stage})

    @property
    def name(self) -> str:
        """Its identity and version in one."""
        return f"{self.saga}@{self.version}"

    def act(self, step: str, direction: Direction) -> DefinedAct | None:
        """Return a step's act, if there is one."""
        found = self._steps.get(step)
        return None if found is None else found.do if direction is Direction.DO else found.undo

    def step(self, name: str) -> DefinedStep | None:
        """Return the step ``name``, if there is one."""
        return self._steps.get(name)

    def adopted(self, journal: Journal, *, version: int) -> Journal:
        """Return the journal of an instance of ``version`` as one that goes through these steps from now on.

        Raises:
            DecodeError: it goes through others, of which some would be left out without a word, or never undone.
        """
        if journal.digest == self.digest:
            return journal
        unknown = sorted(step for step in {**journal.do, **journal.undo} if step not in self._steps)
        if unknown:
            reason = f"it has gone through {', '.join(unknown)}, which version {self.version} has not here"
        elif version == self.version and journal.digest:
            reason = f"it goes through other steps of version {version} than those here"
        else:
            return msgspec.structs.replace(journal, digest=self.digest)
        raise DecodeError(message_type=self.saga, reason=reason, is_of_saga=True)

    def graph(self) -> str:
        """Return its steps as text: two definitions of the same text can run each other's instances.

        Instances keep a digest of it: whatever a release of ours would add to it stands in no digest.
        """
        return msgspec.json.encode(
            [
                [
                    {
                        "step": step.name,
                        "do": step.do.kind.value,
                        "undo": "" if step.undo is None else step.undo.kind.value,
                        "pivot": step.pivot,
                        **({} if step.do.child is None else {"child": step.do.child.name}),
                    }
                    for step in stage
                ]
                for stage in self.stages
            ]
        ).decode()


def resolve_sagas(
    sagas: Sequence[Saga[Any]], *, service: str, provided: Mapping[type[object], Provider]
) -> tuple[Definition, ...]:
    """Check ``sagas`` and return the definitions they mean.

    Raises:
        InvalidSetupError: lists every problem found.
    """
    problems: list[ConfigurationError] = []
    definitions: list[Definition] = []
    for saga in sagas:
        steps: list[DefinedStep] = []
        for declared in saga.steps:
            try:
                steps.append(_step(saga, declared, provided))
            except ConfigurationError as error:
                problems.append(error)
        try:
            full_name(service, saga.name, what="saga")
        except ConfigurationError as error:
            problems.append(error)
        problems += _misplaced(saga)
        definitions.append(
            Definition(
                saga=f"{service}/{saga.name}",
                version=saga.version,
                state=saga.state,
                upcasters=saga.upcasters,
                stages=_stages(saga.steps, steps) if len(steps) == len(saga.steps) else (),
            )
        )
    names = [definition.name for definition in definitions]
    problems += [
        ConfigurationError(f"two sagas are named {name!r}; give one of them another name or version")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    problems += [
        ConfigurationError(f"saga {saga.name!r}: its child {child.name!r} is not included in the box; include it too")
        for saga in sagas
        for child in (step.do.child for step in saga.steps)
        if child is not None and child not in sagas
    ]
    problems += [
        ConfigurationError(
            f"saga {saga.name!r} is among its own children, or theirs, and would never end; break the circle"
        )
        for saga in sagas
        if saga in _descendants(saga)
    ]
    if problems:
        raise InvalidSetupError(problems=problems)
    return tuple(definitions)


def _descendants(saga: Saga[Any]) -> set[Saga[Any]]:
    """Return the children of ``saga``, and theirs."""
    found, waiting = set[Saga[Any]](), [saga]
    while waiting:
        children = {child for step in waiting.pop().steps if (child := step.do.child) is not None} - found
        found |= children
        waiting += children
    return found


def _stages(declared: Sequence[StepDeclaration], steps: Sequence[DefinedStep]) -> tuple[tuple[DefinedStep, ...], ...]:
    pairs = zip(declared, steps, strict=True)
    grouped = groupby(pairs, key=lambda pair: pair[0].parallel or (pair[0].name,))
    return tuple(tuple(step for _, step in group) for _, group in grouped)


def _misplaced(saga: Saga[Any]) -> list[ConfigurationError]:
    """Return what is wrong with the order of its steps."""
    problems: list[ConfigurationError] = []
    if not saga.steps:
        problems.append(ConfigurationError(f"saga {saga.name!r} has no step"))
    pivots = [step.name for step in saga.steps if step.pivot]
    if len(pivots) > 1:
        problems.append(ConfigurationError(f"saga {saga.name!r} has two pivots, {pivots[0]!r} and {pivots[1]!r}"))
    problems += [
        ConfigurationError(
            f"saga {saga.name!r}: its pivot {step.name!r} runs beside others, which may fail when it is done; "
            "leave parallel= out"
        )
        for step in saga.steps
        if step.pivot and step.parallel is not None
    ]
    if any(step.parallel is not None for step in saga.steps) and not _names_its_fields(saga.state):
        problems.append(
            ConfigurationError(
                f"saga {saga.name!r}: what parallel steps change is merged by the names of fields, and "
                f"{saga.state.__qualname__} is written without them; leave array_like, or parallel=, out"
            )
        )
    groups = [name for name, _ in groupby(step.parallel for step in saga.steps) if name is not None]
    problems += [
        ConfigurationError(f"saga {saga.name!r}: the steps of parallel={name!r} are no neighbours")
        for name in sorted({name for name in groups if groups.count(name) > 1})
    ]
    return problems


def _names_its_fields(state: type[object]) -> bool:
    is_array = getattr(getattr(state, "__struct_config__", None), "array_like", False)
    return not (is_array or getattr(state, "__pydantic_root_model__", False))


def _step(saga: Saga[Any], declared: StepDeclaration, provided: Mapping[type[object], Provider]) -> DefinedStep:
    names = [step.name for step in saga.steps]
    pivots = [names.index(step.name) for step in saga.steps if step.pivot]
    place = names.index(declared.name)
    where = f"step {declared.name!r} of saga {saga.name!r}"
    check_values(declared, where=f"{where}: ")
    lasts = bool(pivots) and place > pivots[0]
    undo = None
    if declared.undo is not None:
        undo = _act(declared.undo, f"the compensation of {where}", provided, lasts=True)
    elif declared.do.child is not None:  # a child is undone by itself
        undo = _act(replace(declared.do, timeout=None), where, provided, lasts=True)
    lasts = lasts or (declared.pivot and undo is None and _kind(declared.do, None) is Kind.OUTSIDE)
    return DefinedStep(
        name=declared.name,
        do=_act(declared.do, where, provided, lasts=lasts),
        undo=undo,
        pivot=declared.pivot,
        is_parallel=declared.parallel is not None,
    )


def _act(declared: ActDeclaration, where: str, provided: Mapping[type[object], Provider], *, lasts: bool) -> DefinedAct:
    check_values(declared, where=f"{where}: ", timeout=SOME_TIME)
    signature = _signature(declared.function, where, provided)
    kind = _kind(declared, signature)
    returned: Any = signature.returns
    is_declared = isinstance(returned, type) and is_message(returned)
    if kind is Kind.REQUEST and is_declared and message_type_of(returned).kind != "command":
        raise ConfigurationError(f"{where}: it returns the event {returned.__qualname__}; let it return a command")
    default = LASTING_RETRY if lasts else ONCE if kind in (Kind.REQUEST, Kind.CHILD) else STEP_RETRY
    retry = declared.retry or default
    return DefinedAct(
        kind=kind,
        function=declared.function,
        signature=signature,
        retry=retry,
        timeout=DEFAULT_TIMEOUTS[kind] if declared.timeout is None else declared.timeout,
        failures=declared.failures,
        replies={message_type_of(reply).name: reply for reply in declared.replies},
        reactions={
            message_type_of(reply).name: _reaction(function, f"{where}, on {reply.__qualname__}", provided)
            for reply, function in declared.reactions.items()
        },
        child=declared.child,
    )


def _kind(declared: ActDeclaration, signature: Signature | None) -> Kind:
    if declared.child is not None:
        return Kind.CHILD
    if declared.replies:
        return Kind.REQUEST
    signature = signature or signature_of(declared.function, owner="")
    return Kind.OUTSIDE if signature.transaction is None else Kind.LOCAL


def _signature(function: Callable[..., object], where: str, provided: Mapping[type[object], Provider]) -> Signature:
    signature = signature_of(function, owner=where)
    if missing := signature.missing({**provided, SagaContext: _OURS}):
        raise UnsatisfiedInjectionError(
            problems=[f"{where}: nothing provides {parameter}; use box.provide(Type, factory)" for parameter in missing]
        )
    return signature


def _reaction(function: Callable[..., object], where: str, provided: Mapping[type[object], Provider]) -> Reaction:
    wanted = signature_of(function, owner=where).wants
    if not wanted:
        raise UnsatisfiedInjectionError(problems=[f"{where}: it takes the state and the reply"])
    name, kind = next(iter(wanted.items()))
    signature = _signature(function, where, {**provided, kind: _OURS})
    wants = {parameter: asked for parameter, asked in signature.wants.items() if parameter != name}
    return Reaction(function=function, signature=replace(signature, wants=wants))
