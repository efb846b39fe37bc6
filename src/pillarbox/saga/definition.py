"""Declares sagas: steps and what undoes them, in the order in which they run. Touches no box and no database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from pillarbox.errors import ConfigurationError
from pillarbox.errors.values import Bounds, check_value
from pillarbox.message import Upcaster, check_name
from pillarbox.message.models import model_kind
from pillarbox.retry import FailureRule, Retry

S = TypeVar("S")
C = TypeVar("C")
R = TypeVar("R")
Y = TypeVar("Y")
P = ParamSpec("P")

STEP_RETRY = Retry(attempts=5)
"""What a step gets that could still be undone."""
LASTING_RETRY = Retry(attempts=60, immediate=0, factor=2.0, longest=timedelta(minutes=10))
"""What cannot be undone, and undoing itself, is tried for: about nine hours, and half of that on average."""
ONCE = Retry(attempts=1, immediate=0)
"""A command is sent once: channels lose nothing, and who does not answer in time is asked no second time."""
CALL_WITHIN = timedelta(seconds=30)
ANSWER_WITHIN = timedelta(minutes=5)
MOST_VERSIONS = 2**31 - 1
"""A column of the smallest of the databases' integers holds no more."""


class StepFailed(Exception):  # noqa: N818  # the words of the field, and an answer more than an error
    """A step was refused by the business: it did not happen, and trying again cannot help.

    Raised by steps and by reactions to replies; the saga then undoes what it has done.
    """


class Kind(StrEnum):
    """How an act takes effect.

    ``local`` commits with the saga's own state. ``outside`` is a call whose intent is durable before it is made.
    ``request`` is a command whose reply is awaited. ``child`` is another saga whose end is awaited.
    """

    LOCAL = "local"
    OUTSIDE = "outside"
    REQUEST = "request"
    CHILD = "child"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActDeclaration:
    """One direction of a step as it was declared.

    Attributes:
        function: what is called with the state; it makes the command of a request, or the state of a child.
        retry: how its failures are tried again; ``None`` for what its place in the saga asks for.
        timeout: how long a call may take, or a reply may be awaited; ``None`` for the default of its kind.
        failures: which exceptions are permanent, which transient, before what the box says.
        replies: the messages that answer a request.
        reactions: by reply, what is called with the state and the reply; it raises ``StepFailed`` for a refusal.
        child: the saga that is started.
    """

    function: Callable[..., object]
    retry: Retry | None = None
    timeout: timedelta | None = None
    failures: Sequence[FailureRule] = ()
    replies: tuple[type[object], ...] = ()
    reactions: Mapping[type[object], Callable[..., object]] = field(
        default_factory=dict[type[object], Callable[..., object]]
    )
    child: Saga[Any] | None = None


@dataclass(slots=True, kw_only=True)
class StepDeclaration:
    """A step as it was declared: what it does, and what undoes that."""

    name: str
    do: ActDeclaration
    undo: ActDeclaration | None = None
    pivot: bool = False
    parallel: str | None = None


class Step(Generic[S, P, R]):
    """A declared step; it can be called as the function that it was."""

    def __init__(self, declaration: StepDeclaration, function: Callable[Concatenate[S, P], R]) -> None:
        """Declare what undoes it with ``compensate``."""
        self.declaration = declaration
        self._function = function

    def __call__(self, state: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function as it is."""
        return self._function(state, *args, **kwargs)

    @overload
    def compensate(self, function: Callable[Concatenate[S, P], R], /) -> Callable[Concatenate[S, P], R]: ...
    @overload
    def compensate(self, function: Callable[Concatenate[S, ...], Y], /) -> Callable[Concatenate[S, ...], Y]: ...
    @overload
    def compensate(
        self,
        /,
        *,
        replies: tuple[type[object], ...] = (),
        retry: Retry | None = None,
        timeout: timedelta | None = None,
        failures: Sequence[FailureRule] = (),
    ) -> Callable[[Callable[Concatenate[S, ...], Y]], Callable[Concatenate[S, ...], Y]]: ...
    def compensate(
        self,
        function: Any = None,
        /,
        *,
        replies: tuple[type[object], ...] = (),
        retry: Retry | None = None,
        timeout: timedelta | None = None,
        failures: Sequence[FailureRule] = (),
    ) -> Any:
        """Declare what undoes the step, also where it may or may not have happened.

        It must be able to run twice, and to find nothing to undo. With ``replies`` the function makes a command, and
        the step counts as undone when one of them has come.

        Args:
            function: the function, where the decorator is used without brackets.
            replies: the messages that say that the command was done.
            retry: how its failures are tried again; unless given, for hours. It blocks what was done before the step
                until it has succeeded or its attempts are used up.
            timeout: how long a call may take, or a reply may be awaited.
            failures: which exceptions are permanent, which transient.

        Raises:
            ConfigurationError: the step has a compensation already, or starts a child, which is undone by itself.
        """
        if function is None:
            return partial(self._undone_by, replies=replies, retry=retry, timeout=timeout, failures=failures)
        return self._undone_by(function)

    def _undone_by(
        self,
        function: Callable[..., Any],
        *,
        replies: tuple[type[object], ...] = (),
        retry: Retry | None = None,
        timeout: timedelta | None = None,
        failures: Sequence[FailureRule] = (),
    ) -> Callable[..., Any]:
        if self.declaration.do.child is not None:
            raise ConfigurationError(
                f"step {self.declaration.name!r} starts a child, which is undone as a whole; declare what undoes the "
                f"steps of {self.declaration.do.child.name!r}, or another step before this one"
            )
        if self.declaration.undo is not None:
            raise ConfigurationError(f"step {self.declaration.name!r} has a compensation already")
        self.declaration.undo = ActDeclaration(
            function=function, retry=retry, timeout=timeout, failures=failures, replies=replies
        )
        return function


class RequestStep(Step[S, P, R]):
    """A step that sends a command and awaits its reply."""

    def on(
        self, reply: type[Y], /
    ) -> Callable[[Callable[Concatenate[S, Y, ...], None]], Callable[Concatenate[S, Y, ...], None]]:
        """Call the decorated function with the state and a ``reply``; a reply without one is taken as done.

        It may change the state. It raises ``StepFailed`` where the reply is a refusal: then nothing was done there,
        and nothing of this step is undone.

        Raises:
            ConfigurationError: the step awaits no such reply, or has a reaction to it already.
        """

        def declare(function: Callable[..., None]) -> Callable[..., None]:
            do = self.declaration.do
            check_value(reply, type, name=f"step {self.declaration.name!r}: a reply")
            if reply not in do.replies:
                raise ConfigurationError(
                    f"step {self.declaration.name!r} awaits no {reply.__qualname__}; add it to replies="
                )
            if reply in do.reactions:
                raise ConfigurationError(
                    f"step {self.declaration.name!r} has a reaction to {reply.__qualname__} already; make it one"
                )
            self.declaration.do = replace(do, reactions={**do.reactions, reply: function})
            return function

        return declare


class Saga(Generic[S]):
    """A long process as a sequence of steps, each with what undoes it.

    It ends completed, or compensated: what was done is undone in reverse. Where neither is possible it stops and needs
    attention. Source: Garcia-Molina and Salem, *Sagas*, 1987; Richardson: compensatable, pivot and retriable steps.
    """

    def __init__(
        self, name: str, *, state: type[S], version: int = 1, upcasters: Mapping[int, Upcaster] | None = None
    ) -> None:
        """Declare no step yet.

        Args:
            name: its durable name within the service.
            state: what its steps read and change: a dataclass, a ``msgspec.Struct`` or a pydantic model.
            version: of its steps and its state, from 1. An instance stays with the version it was started in.
            upcasters: by version, what turns an older version's state (as plain data) into the next one's: with it
                this definition takes over instances of that version where no other one does.

        Raises:
            ConfigurationError: a name, version or class is not fit.
        """
        self.name = check_name(name, what="the saga's name")
        check_value(state, type, name=f"saga {name!r}: state")
        if model_kind(state) is None:
            raise ConfigurationError(
                f"saga {name!r}: {state.__qualname__} is no dataclass, msgspec.Struct or pydantic model; make it one"
            )
        check_value(version, int, name=f"saga {name!r}: version", bounds=Bounds(least=1, most=MOST_VERSIONS))
        self.state = state
        self.version = version
        check_value(upcasters, Mapping | None, name=f"saga {name!r}: upcasters")
        for older in upcasters or ():
            check_value(older, int, name=f"saga {name!r}: a version in upcasters")
        for upcaster in (upcasters or {}).values():
            check_value(upcaster, Callable, name=f"saga {name!r}: an upcaster")
        self.upcasters = dict(sorted((upcasters or {}).items()))
        if self.upcasters and [*self.upcasters] != [*range(max(1, min(self.upcasters)), version)]:
            raise ConfigurationError(
                f"saga {name!r}: its upcasters are from {', '.join(map(str, self.upcasters))}, and lead to version "
                f"{version} only with one from each version between"
            )
        self.steps: list[StepDeclaration] = []
        self.heard_by = 0
        """How many boxes are running with it."""

    @overload
    def step(self, function: Callable[Concatenate[S, P], R], /) -> Step[S, P, R]: ...
    @overload
    def step(
        self,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: timedelta | None = None,
        failures: Sequence[FailureRule] = (),
        pivot: bool = False,
        parallel: str | None = None,
    ) -> Callable[[Callable[Concatenate[S, P], R]], Step[S, P, R]]: ...
    def step(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: timedelta | None = None,
        failures: Sequence[FailureRule] = (),
        pivot: bool = False,
        parallel: str | None = None,
    ) -> Any:
        """Declare the next step: the decorated function, called with the state and with what it asks for.

        A function that asks for the transaction is a local step: its writes, the saga's state and what it publishes
        commit together, or not at all. One that does not is a call to the outside: at least once, under a key that
        stays the same until it is refused (``ctx.idempotency_key()``), and undone also where it may or may not have
        happened. It changes the state in place, or returns a new one; a failed attempt's changes are discarded.

        Args:
            function: the function, where the decorator is used without brackets.
            name: its durable name; that of the function unless given.
            retry: how its failures are tried again; ``StepFailed`` is a refusal and never is.
            timeout: how long one attempt may take.
            failures: which exceptions are permanent, which transient.
            pivot: the point of no return: once it is done nothing is undone, and what follows is tried until it is
                done, or the saga needs attention.
            parallel: neighbouring steps of the same name run side by side.

        Raises:
            ConfigurationError: another step bears the name.
        """
        act = partial(ActDeclaration, retry=retry, timeout=timeout, failures=failures)
        declare = partial(self._declared, Step, act, name=name, pivot=pivot, parallel=parallel)
        return declare if function is None else declare(function)

    def request(
        self,
        *,
        replies: tuple[type[object], ...],
        name: str | None = None,
        retry: Retry | None = None,
        timeout: timedelta | None = None,
        pivot: bool = False,
        parallel: str | None = None,
    ) -> Callable[[Callable[Concatenate[S, P], R]], RequestStep[S, P, R]]:
        """Declare the next step: the command that the decorated function makes, and one of ``replies`` awaited.

        Args:
            replies: the messages that answer it; see ``on``.
            name: its durable name; that of the function unless given.
            retry: how often the command is sent if no reply comes; once unless given.
            timeout: how long the reply is awaited, five minutes unless given; after that the step may or may not have
                been done, and is undone too.
            pivot: the point of no return.
            parallel: neighbouring steps of the same name run side by side.

        Raises:
            ConfigurationError: no reply is named, or another step bears the name.
        """
        check_value(replies, tuple, name=f"saga {self.name!r}: replies")
        if not replies:
            raise ConfigurationError(f"saga {self.name!r}: a request names the messages that answer it in replies=")
        act = partial(ActDeclaration, retry=retry, timeout=timeout, replies=tuple(replies))
        return partial(self._declared, RequestStep, act, name=name, pivot=pivot, parallel=parallel)

    def child(
        self,
        saga: Saga[C],
        /,
        *,
        name: str | None = None,
        timeout: timedelta | None = None,
        pivot: bool = False,
        parallel: str | None = None,
    ) -> Callable[[Callable[Concatenate[S, P], C]], Step[S, P, C]]:
        """Declare the next step: another saga, started with the state that the decorated function makes.

        The step is done when that saga has completed, and refused when it was compensated. It is undone as a whole; one
        that is past its pivot stays, and this one needs attention.

        Args:
            saga: of the same service; the instance's id is this one's with its definition and the step behind it,
                as in ``o-1.fulfil.deliver``.
            name: its durable name; that of the function unless given.
            timeout: how long its end is awaited, after which it is undone, or past the pivot this one needs attention;
                without end unless given.
            pivot: the point of no return.
            parallel: neighbouring steps of the same name run side by side.
        """
        check_value(saga, Saga, name=f"saga {self.name!r}: a child")
        act = partial(ActDeclaration, timeout=timeout, child=saga)
        return partial(self._declared, Step, act, name=name, pivot=pivot, parallel=parallel)

    def _declared(
        self,
        kind: Any,
        act: Callable[..., ActDeclaration],
        function: Callable[..., Any],
        *,
        name: str | None,
        pivot: bool,
        parallel: str | None,
    ) -> Any:
        if self.heard_by:
            raise ConfigurationError(
                f"saga {self.name!r}: a box is running with it, which would not see a further step before it starts "
                "anew; declare it before"
            )
        if isinstance(function, Step):
            declared: StepDeclaration = function.declaration
            raise ConfigurationError(
                f"saga {self.name!r}: the function of step {declared.name!r} is declared as a step already; "
                "declare the plain function for each saga, as in first.step(name=…)(function)"
            )
        check_value(function, Callable, name=f"saga {self.name!r}: a step")
        named = check_name(name or function.__name__, what=f"the name of a step of saga {self.name!r}")
        if any(step.name == named for step in self.steps):
            raise ConfigurationError(f"saga {self.name!r} has two steps named {named!r}; give one another name=")
        declaration = StepDeclaration(name=named, do=act(function=function), pivot=pivot, parallel=parallel)
        self.steps.append(declaration)
        return kind(declaration, function)
