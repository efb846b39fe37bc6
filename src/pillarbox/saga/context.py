"""What a step can know about its saga, and how it publishes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from pillarbox.errors import ConfigurationError
from pillarbox.idempotency.outside_calls import OutsideCalls
from pillarbox.message import message_type_of
from pillarbox.outbox import Origin, Outbox, OutboxRecord, PublishOptions
from pillarbox.saga.definition import Kind
from pillarbox.saga.happening import Act
from pillarbox.saga.locks import LOCKED_FOR, OwnLocks, SagaLockStore
from pillarbox.saga.store import SagaKey
from pillarbox.transaction import AsyncTx, SyncTx


class SagaContext:
    """One act of one saga, and the outbox of the transaction that its end is part of."""

    __slots__ = (
        "_calls",
        "_origin",
        "_outbox",
        "_records",
        "_round",
        "attempt",
        "direction",
        "locks",
        "saga",
        "saga_id",
        "step",
    )

    def __init__(
        self,
        key: SagaKey,
        act: Act,
        *,
        outbox: Outbox,
        origin: Origin,
        calls: OutsideCalls | None,
        locks: SagaLockStore,
    ) -> None:
        """Publish through ``outbox`` when the act is done; ``calls`` where no transaction is open meanwhile."""
        self.saga = key.saga
        """The saga's identity, ``<service>/<name>``."""
        self.saga_id = key.saga_id
        """The id that the instance was started with."""
        self.step = act.step
        """The step's name."""
        self.direction = act.direction
        """Whether the step is done or undone."""
        self.attempt = act.attempt
        """Which attempt this is, counted from 1."""
        self._round = act.round if act.kind is Kind.OUTSIDE else 0  # of others nothing stays of what was refused
        self._outbox = outbox
        self._origin = origin
        self._calls = calls
        self._records: list[OutboxRecord] = []
        self.locks = OwnLocks(key, locks)
        """What the act has asked for of the saga's locks; see ``lock``."""

    @property
    def correlation_id(self) -> str:
        """The id that every message of the process shares."""
        return self._origin.correlation_id or self.saga_id

    @property
    def calls(self) -> OutsideCalls:
        """The calls to the outside, for ``call_once``.

        Raises:
            ConfigurationError: the step has a transaction, which would be held open for as long as the call takes.
        """
        if self._calls is None:
            raise ConfigurationError(
                f"step {self.step!r} of {self.saga}: call_once needs a step that asks for no transaction"
            )
        return self._calls

    @property
    def records(self) -> tuple[OutboxRecord, ...]:
        """What the act has published so far."""
        return tuple(self._records)

    def idempotency_key(self, name: str = "") -> str:
        """Return a key for a call to the outside: the same at every attempt and restart, and at an operator's retry.

        Only of a step that was refused (``StepFailed``), and so did not happen, has the retry a new key: the other side
        may keep its refusal under the old one. Doing and undoing have keys of their own.

        Args:
            name: tells several calls of one act apart.
        """
        direction = f"{self.direction.value}.{self._round}" if self._round else self.direction.value
        return f"{self.saga}:{self.saga_id}:{self.step}:{direction}" + (f":{name}" if name else "")

    async def lock(self, resource: str, /, *, tx: AsyncTx, expires_after: timedelta = LOCKED_FOR) -> bool:
        """Lock a thing of the business for this saga until it ends; call it again to prolong the lock.

        The lock commits with the step. It is let go in the transaction in which the saga completes or is compensated.
        Others ask ``box.sagas.locks.holder``; what does not ask is not held up.

        Args:
            resource: what is locked, as in ``account:a-1``.
            tx: the step's transaction.
            expires_after: when others may take it, although the saga has not ended.

        Returns:
            Whether it was held by this saga before, and by nobody else since. If a later step gets ``False``, the lock
            had expired: read again what it protects.

        Raises:
            ResourceLocked: another saga holds it. Let it through to wait, as often as the step's ``retry=`` says, or
                raise ``StepFailed`` instead.
            NoTransactionError: ``tx`` has no open transaction.
            ConfigurationError: the step has no transaction of its own, so nobody would let the lock go.
        """
        self._check_holds_transaction()
        return await self.locks.take(resource, expires_after, tx)

    def lock_sync(self, resource: str, /, *, tx: SyncTx, expires_after: timedelta = LOCKED_FOR) -> bool:
        """Do what ``lock`` does, for a step that is no ``async def``."""
        self._check_holds_transaction()
        return self.locks.take_sync(resource, expires_after, tx)

    def publish(
        self,
        event: object,
        /,
        *,
        key: str | None = None,
        delay: timedelta | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish an event when the act is done; if it does not come to that, nothing is published.

        Raises:
            InvalidMessageError: the event cannot be published as it is.
        """
        self._note(event, "event", PublishOptions(key=key, delay=delay, headers=headers or {}))

    def send(
        self,
        command: object,
        /,
        *,
        key: str | None = None,
        delay: timedelta | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a command when the act is done, whose reply is not awaited; the rest is as with ``publish``."""
        self._note(command, "command", PublishOptions(key=key, delay=delay, headers=headers or {}))

    def _check_holds_transaction(self) -> None:
        if self._calls is not None:
            raise ConfigurationError(
                f"step {self.step!r} of {self.saga}: a lock is taken in the step's own transaction; ask for one, "
                "as in tx: AsyncConnection, or take the lock in a step before this one"
            )

    def _note(self, payload: object, kind: str, options: PublishOptions) -> None:
        declared = message_type_of(type(payload)).kind
        if declared != kind:
            verb = "publish" if declared == "event" else "send"
            raise ConfigurationError(f"{type(payload).__qualname__} is declared as a {declared}; use {verb}() for it")
        self._records.append(self._outbox.prepare(payload, options=options, origin=self._origin))
