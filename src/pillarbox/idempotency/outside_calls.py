"""``call_once``: the answer of a call to the outside is stored under its key and returned on a repeat."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol, TypeVar, overload

from pillarbox.clock import Clock
from pillarbox.errors import (
    ConfigurationError,
    ConflictError,
    DecodeError,
    InDoubtError,
    NotFoundError,
    PillarboxError,
    TransientError,
)
from pillarbox.idempotency.calls import Answered, CallStore, DoubtfulCall, Held, InDoubt, Ours
from pillarbox.idempotency.fitting import fitting
from pillarbox.lease import repeated
from pillarbox.message.models import model_kind
from pillarbox.serialization import Codec, JsonCodec
from pillarbox.transaction import Program, TransactionSource

A = TypeVar("A")
T = TypeVar("T")

LOOK_AGAIN = timedelta(milliseconds=50)
"""How often a call that somebody else makes is looked at."""
TRIES = 5
PAUSE_BETWEEN_TRIES = timedelta(milliseconds=200)
"""What is known of a call is written in more than one try: without it the call is in doubt."""
LISTED = 1_000
PURGED_AT_ONCE = 10_000


class CallingContext(Protocol):
    """What ``call_once`` needs of a handler's context."""

    @property
    @abstractmethod
    def calls(self) -> OutsideCalls:
        """The calls of the box."""

    @abstractmethod
    def idempotency_key(self, name: str = "") -> str:
        """Return a key that is the same at every attempt, redelivery and replay of the message."""


@overload
async def call_once(
    ctx: CallingContext,
    name: str,
    call: Callable[[str], Awaitable[A]],
    *,
    answer: type[A],
    remembered_for: timedelta | None,
    failed: tuple[type[Exception], ...] = (),
) -> A: ...
@overload
async def call_once(
    ctx: CallingContext,
    name: str,
    call: Callable[[str], Awaitable[object]],
    *,
    remembered_for: timedelta | None,
    failed: tuple[type[Exception], ...] = (),
) -> Any: ...
async def call_once(
    ctx: CallingContext,
    name: str,
    call: Callable[[str], Awaitable[Any]],
    *,
    answer: type[Any] | None = None,
    remembered_for: timedelta | None,
    failed: tuple[type[Exception], ...] = (),
) -> Any:
    """Make a call to the outside from a handler, once for the message; on a repeat return the answer that was stored.

    For handlers in ``async def`` that ask for no transaction. The intent is committed before the call. A process that
    ends after the call leaves it *in doubt*: it is made again with the same key while the other side is sure to know
    that key, so that it answers what it answered; later it is an ``InDoubtError``, a dead letter for a person.

    Args:
        ctx: the handler's context.
        name: tells several calls of one handler apart.
        call: makes the call; given the idempotency key to pass on.
        answer: the class of the answer: a dataclass, a Struct, a pydantic model; left out: plain JSON data.
        remembered_for: how long the other side remembers a key since it first saw it, often 24 hours; ``None`` if it
            knows no keys: then a call in doubt is not made again.
        failed: exceptions that prove that nothing happened there, such as a declined payment: a repeat calls anew.
            After any other exception the call is in doubt.

    Raises:
        ConfigurationError: the handler has a transaction, or the answer's class cannot be stored; nothing was called.
        InDoubtError: it may have been made, and cannot safely be made again; or its answer could not be stored.
        TransientError: somebody else is making it at the moment.
    """
    calls, key = ctx.calls, ctx.idempotency_key(name)
    return await calls.once(key, call, answer=answer, remembered_for=remembered_for, failed=failed)


class OutsideCalls:
    """The calls that a box makes to the outside, and what a person decides about those in doubt."""

    def __init__(
        self,
        store: CallStore,
        *,
        source: TransactionSource,
        codec: Codec,
        clock: Clock,
        new_token: Callable[[], str],
        hold: timedelta,
    ) -> None:
        """Keep answers in ``store``; what a process that ended was calling is held for ``hold`` more."""
        self._store = store
        self._source = source
        self._codec = codec
        self._plain = JsonCodec()
        self._clock = clock
        self._new_token = new_token
        self._hold = hold

    async def once(
        self,
        key: str,
        call: Callable[[str], Awaitable[Any]],
        *,
        answer: type[Any] | None = None,
        remembered_for: timedelta | None,
        failed: tuple[type[Exception], ...] = (),
    ) -> Any:
        """Make the call under ``key``, or return the answer that is stored; the rest is as with ``call_once``.

        Outside of handlers: ``key`` is from the business, as in ``refund:o-1``, and no transaction may be open.
        """
        if not key:
            raise ConfigurationError("a call to the outside needs a key that tells it from all others")
        if remembered_for is not None and remembered_for <= timedelta(0):
            raise ConfigurationError("remembered_for= must be longer than no time; None where no key is remembered")
        if answer is not None:
            self._codec.prepare(answer)
        token = self._new_token()
        stored = await self._begin(key, token, remembered_for)
        if stored is None:
            given = await self._made(key, token, call, failed)
            body = await self._body_of(given, key, token, answer)
            stored = await self._insist(lambda: self._store.answer(fitting(key), body))
        try:
            return self._decoded(stored, answer)
        except DecodeError as error:
            reason = f"the answer that is stored cannot be read ({error.reason}), so it is to be recorded instead=True"
            raise InDoubtError(key=key, reason=reason) from error

    async def in_doubt(self) -> Sequence[DoubtfulCall]:
        """Return the calls in doubt, those begun first first."""
        return await self._source.run(self._store.in_doubt(limit=LISTED))

    async def record(self, key: str, answer: object, *, instead: bool = False) -> None:
        """Store the answer that a call in doubt had, as the other side's records show; then replay the dead letter.

        Args:
            key: the key of the call.
            answer: what the other side answered.
            instead: it takes the place of an answer that is stored, such as one that was recorded wrongly.

        Raises:
            NotFoundError: no such call is in doubt, or has an answer; nothing was changed.
        """
        codec = self._plain if model_kind(type(answer)) is None else self._codec
        body = codec.encode(answer)
        if instead:
            await self._source.run(self._replace(key, body))
            return
        if not await self._source.run(self._store.in_doubt(limit=1, key=fitting(key))):
            raise NotFoundError(kind="call in doubt", identifier=key)
        await self._source.run(self._store.answer(fitting(key), body))

    def _replace(self, key: str, body: bytes) -> Program[None]:
        if not (yield from self._store.allow(fitting(key), answered=True)):
            raise NotFoundError(kind="call with an answer", identifier=key)
        yield from self._store.answer(fitting(key), body)

    async def allow(self, key: str) -> None:
        """Have a call in doubt made anew at the next try: the other side has no trace of it.

        Raises:
            NotFoundError: no call is in doubt under this key; nothing was changed.
        """
        if not await self._source.run(self._store.allow(fitting(key))):
            raise NotFoundError(kind="call in doubt", identifier=key)

    async def purge(self, older_than: timedelta) -> int:
        """Remove answers last returned longer ago than ``older_than``, in short transactions; return how many.

        A box with consumers does so for those older than what its inbox keeps. A call whose answer was removed is made
        anew: keep it for longer than messages are retried, held and replayed.
        """
        purged, batch = 0, PURGED_AT_ONCE
        while batch == PURGED_AT_ONCE:  # answers grow old all the time: while there is one it would never end
            batch = await self._source.run(self._store.purge(older_than, limit=PURGED_AT_ONCE))
            purged += batch
        return purged

    async def _begin(self, key: str, token: str, remembered_for: timedelta | None) -> bytes | None:
        """Return the answer that is stored, or ``None`` when the call is ours to make now."""
        repeatable_for = None if remembered_for is None else remembered_for - self._hold  # made while it is held
        began = self._clock.monotonic()
        while True:
            asked = self._clock.monotonic()
            try:
                standing = await self._source.run(
                    self._store.begin(fitting(key), token=token, hold=self._hold, repeatable_for=repeatable_for)
                )
            except ConflictError:
                standing = Held()
            now = self._clock.monotonic()
            match standing:
                case Answered():
                    return standing.body
                case InDoubt():
                    raise InDoubtError(key=key, reason=_too_late(standing.age, remembered_for))
                case Ours() if now - asked < self._hold.total_seconds() / 2:
                    return None
                case Ours():  # this process stood still since, and must not call on what it knew then
                    await self._source.run(self._store.hold(fitting(key), token=token, until=timedelta(0)))
                case Held() if now - began > 2 * self._hold.total_seconds():
                    raise TransientError(f"somebody else is making the call {key!r}; try again later")
                case Held():
                    await self._clock.sleep(LOOK_AGAIN)

    async def _made(
        self,
        key: str,
        token: str,
        call: Callable[[str], Awaitable[Any]],
        failed: tuple[type[Exception], ...],
    ) -> Any:
        """Make the call; whatever it raises leaves the call forgotten, if nothing happened, or in doubt."""

        async def renew() -> None:
            await self._source.run(self._store.hold(fitting(key), token=token, until=self._hold))

        try:
            async with repeated(renew, every=self._hold / 3, clock=self._clock):
                return await call(key)
        except failed:
            with suppress(PillarboxError):  # then it is in doubt until the hold ends, and after it
                await self._insist(lambda: self._store.withdraw(fitting(key), token=token))
            raise
        except Exception:
            await self._leave(key, token)
            raise

    async def _body_of(self, given: Any, key: str, token: str, answer: type[Any] | None) -> bytes:
        """Return an answer as it is stored.

        Raises:
            InDoubtError: it could not be read again; the call was made.
        """
        try:
            body = (self._plain if answer is None else self._codec).encode(given)
            self._decoded(body, answer)
        except PillarboxError as error:
            await self._leave(key, token)
            kind = type(given).__qualname__
            raise InDoubtError(key=key, reason=f"its answer, a {kind}, cannot be stored: {error}") from error
        return body

    def _decoded(self, body: bytes, answer: type[Any] | None) -> Any:
        return self._plain.decode_untyped(body) if answer is None else self._codec.decode(body, answer)

    async def _leave(self, key: str, token: str) -> None:
        """Give the hold up, so that the next try need not wait for its end."""
        with suppress(PillarboxError):
            await self._source.run(self._store.hold(fitting(key), token=token, until=timedelta(0)))

    async def _insist(self, program: Callable[[], Program[T]]) -> T:
        """Run a program in more than one try if need be."""
        for _ in range(TRIES - 1):
            try:
                return await self._source.run(program())
            except (TransientError, ConflictError):
                await self._clock.sleep(PAUSE_BETWEEN_TRIES)
        return await self._source.run(program())


def _too_late(age: timedelta, remembered_for: timedelta | None) -> str:
    begun = f"it was begun {age.total_seconds():.0f} s ago"
    if remembered_for is None:
        return f"{begun}, and the other side knows no keys by which it could tell a repeat"
    return f"{begun}, and the other side remembers a key for {remembered_for.total_seconds():.0f} s"
