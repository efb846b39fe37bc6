"""The sagas of a box: started in the caller's transaction, looked at, and decided about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox.audit import ActStore
from pillarbox.consumer import Context, Handlers
from pillarbox.errors import ConfigurationError
from pillarbox.idempotency.fitting import fitting
from pillarbox.message.limits import KEY_COLUMN_BYTES
from pillarbox.saga.catalogue import Catalogue
from pillarbox.saga.control import SagaControl
from pillarbox.saga.definition import Saga
from pillarbox.saga.locks import SagaLockStore, SemanticLocks
from pillarbox.saga.starting import new_saga
from pillarbox.saga.state import StateCodec
from pillarbox.saga.store import NewSaga, SagaArchive, SagaKey, SagaStore
from pillarbox.transaction import AsyncTx, SyncTx, TransactionSource, adopt, adopt_sync

S = TypeVar("S")
E = TypeVar("E")
STARTS_AT_ONCE = 200


class SagaPorts(Protocol):
    """What keeps sagas."""

    @property
    def sagas(self) -> SagaStore:
        """Where those at work are kept."""
        ...

    @property
    def saga_archive(self) -> SagaArchive:
        """What people ask."""
        ...

    @property
    def saga_locks(self) -> SagaLockStore:
        """What they have locked."""
        ...


class Sagas(SagaControl):
    """The sagas of one service."""

    def __init__(
        self,
        service: str,
        ports: SagaPorts,
        *,
        acts: ActStore,
        source: TransactionSource,
        states: StateCodec,
        runs: Callable[[Saga[Any]], bool],
    ) -> None:
        """Start sagas in the name of ``service``, of the definitions that it ``runs``."""
        super().__init__(store=ports.sagas, archive=ports.saga_archive, acts=acts, source=source)
        self.locks = SemanticLocks(ports.saga_locks)
        self._service = service
        self._states = states
        self._runs = runs

    async def start(self, saga: Saga[S], state: S, /, *, saga_id: str, tx: AsyncTx) -> bool:
        """Start a saga when ``tx`` commits.

        Args:
            saga: its definition, which the box includes.
            state: what it begins with.
            saga_id: from the business, as in ``o-1``: of one id there is one saga, whoever starts it how often.
            tx: the caller's open transaction; it stays the caller's to commit.

        Returns:
            Whether it is new; if not, the one that is there goes its way, with the state that it has.

        Raises:
            NoTransactionError: ``tx`` has no open transaction; nothing was written.
            ConfigurationError: the box does not include the saga, the state is of another class, or the id cannot be
                kept; nothing was written.
            InvalidMessageError: the state cannot be carried, or is too large; nothing was written.
        """
        started = await self.start_all(saga, {saga_id: state}, tx=tx)
        return bool(started)

    async def start_all(self, saga: Saga[S], states: Mapping[str, S], /, *, tx: AsyncTx) -> frozenset[str]:
        """Start many sagas in few statements; return the ids that are new. The rest is as with ``start``."""
        sagas = [self._new(saga, saga_id, state) for saga_id, state in states.items()]
        if not sagas:
            return frozenset()
        started = await adopt(tx).run(self._store.start(sagas))
        return frozenset(key.saga_id for key in started)

    def start_sync(self, saga: Saga[S], state: S, /, *, saga_id: str, tx: SyncTx) -> bool:
        """Do what ``start`` does, for a synchronous transaction."""
        return bool(adopt_sync(tx).run(self._store.start([self._new(saga, saga_id, state)])))

    def starter(
        self,
        saga: Saga[Any],
        started_by: type[object],
        state_from: Callable[[Any], Any],
        id_from: Callable[[Any], str] | None,
    ) -> Handlers:
        """Return the consumer that starts ``saga`` for each message of a type."""

        async def start(messages: list[Any], contexts: list[Context], tx: AsyncConnection) -> None:
            sagas = [
                self._new(saga, _id_of(message, context, id_from), state_from(message), context)
                for message, context in zip(messages, contexts, strict=True)
            ]
            first = {one.key: one for one in reversed(sagas)}
            await adopt(tx).run(self._store.start(list(first.values())))

        handlers = Handlers()
        handlers.on(started_by, name=f"start-{saga.name}", batch=STARTS_AT_ONCE)(start)
        return handlers

    def _new(self, saga: Saga[Any], saga_id: str, state: object, context: Context | None = None) -> NewSaga:
        _check_id(saga_id)
        if not self._runs(saga):
            raise ConfigurationError(
                f"saga {saga.name!r} version {saga.version} would stand still, as its box does not include it; "
                "call box.include first"
            )
        if not isinstance(state, saga.state):
            raise ConfigurationError(
                f"saga {saga.name!r} begins with a {saga.state.__qualname__}, got a {type(state).__qualname__}"
            )
        return new_saga(
            SagaKey(f"{self._service}/{saga.name}", saga_id),
            service=self._service,
            version=saga.version,
            state=self._states.text_of(state),
            content_type=self._states.content_type,
            correlation_id=None if context is None else fitting(context.correlation_id),
        )


def _check_id(saga_id: object) -> None:
    """Refuse an id that a store could not hold, or would cut off."""
    try:
        is_fit = isinstance(saga_id, str) and "\0" not in saga_id and 0 < len(saga_id.encode()) <= KEY_COLUMN_BYTES
    except UnicodeEncodeError:
        is_fit = False
    if not is_fit:
        shown = f"{saga_id!r:.60}"
        raise ConfigurationError(f"a saga's id is a text of 1 to {KEY_COLUMN_BYTES} bytes without NUL, got {shown}")


def _id_of(message: Any, context: Context, id_from: Callable[[Any], str] | None) -> str:
    saga_id = context.key if id_from is None else id_from(message)
    if saga_id is None:
        raise ConfigurationError(f"a message of {context.type!r} has no key to name the saga by; give id_from=")
    return saga_id


def broken(catalogue: Catalogue, stored: Mapping[tuple[str, int], str]) -> list[ConfigurationError]:
    """Return what today's definitions cannot go on with, of the graphs that instances under way were run by."""
    problems: list[ConfigurationError] = []
    graphs = catalogue.graphs
    for (saga, version), graph in sorted(stored.items()):
        today = catalogue.get(saga, version)
        if today is None:
            problems.append(
                ConfigurationError(
                    f"instances of {saga} version {version} are under way and nothing here runs them; include that "
                    "version too, or give a newer one upcasters from it"
                )
            )
        elif today.version == version and not _is_same(graphs[saga, version], graph):
            problems.append(
                ConfigurationError(
                    f"the steps of {saga} version {version} have changed, and instances of it are under way; give the "
                    "new steps a new version, and keep the old one until its instances have ended"
                )
            )
        elif today.version != version and not _contains(graphs[saga, version], graph):
            problems.append(
                ConfigurationError(
                    f"{saga} version {today.version} takes over instances of version {version} that are under way, and "
                    "lacks steps of theirs, or has them in another order; include that version too"
                )
            )
    return problems


def _contains(newer: str, older: str) -> bool:
    """Tell whether the steps of ``older`` stand in ``newer`` as they are and in their order."""
    steps = iter([step for stage in msgspec.json.decode(newer) for step in stage])
    return all(any(_fits(one, step) for one in steps) for stage in msgspec.json.decode(older) for step in stage)


def _is_same(today: str, stored: str) -> bool:
    now, then = msgspec.json.decode(today), msgspec.json.decode(stored)
    return [*map(len, now)] == [*map(len, then)] and _contains(today, stored)


def _fits(today: dict[str, object], stored: dict[str, object]) -> bool:
    """Tell whether a step is what it was; which child it starts was not always written down."""
    return stored in (today, {name: value for name, value in today.items() if name != "child"})
