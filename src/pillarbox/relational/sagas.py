"""Sagas at work, in SQL: the transitions of many of them are read by one statement and written by one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Executable,
    String,
    Text,
    UnicodeText,
    and_,
    bindparam,
    delete,
    literal,
    or_,
    select,
    text,
    update,
)

from pillarbox.relational.expressions import MICROSECONDS, any_of, insert_into, micros, now_us, rows_of, texts
from pillarbox.relational.saga_tables import saga_instances
from pillarbox.saga.journal import SagaStatus
from pillarbox.saga.store import (
    NONE_POSTPONED,
    ChangedSaga,
    NewSaga,
    SagaKey,
    SagaRow,
    SagaStore,
)
from pillarbox.transaction import Execute, Program, Row

ENDED = (SagaStatus.COMPLETED.value, SagaStatus.COMPENSATED.value)

_saga = saga_instances.c
SERVICE = bindparam("of_service", type_=String)
UP_TO = bindparam("up_to", type_=BigInteger)
_new = rows_of(
    "sagas",
    saga=Text(),
    saga_id=Text(),
    service=Text(),
    definition=Text(),
    version=BigInteger(),
    data=UnicodeText(),
    content_type=Text(),
    journal=UnicodeText(),
    correlation_id=Text(),
)
_given_by_caller = ("saga", "saga_id", "service", "definition", "version", "data", "content_type", "journal")
BEGIN = (  # primary key; a concurrent start of the same id is waited for
    insert_into(saga_instances)
    .from_select(
        [*_given_by_caller, "correlation_id", "state", "steps", "serial", "due_at", "started_at", "changed_at"],
        select(
            *(_new.c[name] for name in (*_given_by_caller, "correlation_id")),
            literal(SagaStatus.RUNNING.value),
            literal(""),
            literal(0),
            now_us(),
            now_us(),
            now_us(),
        )
        .where(text("true"))
        .order_by(_new.c.saga, _new.c.saga_id),
    )
    .on_conflict_do_nothing()
)
START = BEGIN.returning(_saga.saga, _saga.saga_id)
_row = (
    _saga.saga,
    _saga.saga_id,
    _saga.version,
    _saga.data,
    _saga.content_type,
    _saga.journal,
    _saga.correlation_id,
    _saga.serial,
)


_one_of = and_(any_of(_saga.saga, texts("sagas")), any_of(_saga.saga_id, texts("ids")))
LOCK = (  # primary key
    select(*_row, now_us()).where(_one_of).order_by(_saga.saga, _saga.saga_id).with_for_update()
)
PRESENT = select(_saga.saga, _saga.saga_id).where(_one_of)  # primary key; where an INSERT tells nothing
_is_due = (_saga.service == SERVICE, _saga.due_at <= select(now_us()).scalar_subquery())
DUE = (  # index on (service, due_at)
    select(*_row, now_us())
    .where(*_is_due, any_of(_saga.definition, texts("definitions")))
    .order_by(_saga.due_at)
    .limit(UP_TO)
    .with_for_update(skip_locked=True)
)
_changed = rows_of(
    "sagas",
    saga=Text(),
    saga_id=Text(),
    definition=Text(),
    version=BigInteger(),
    state=Text(),
    steps=UnicodeText(),
    data=UnicodeText(),
    journal=UnicodeText(),
    due_at=BigInteger(),
)
SAVE = (  # primary key
    update(saga_instances)
    .where(_saga.saga == _changed.c.saga, _saga.saga_id == _changed.c.saga_id)
    .values(
        **{name: _changed.c[name] for name in ("definition", "version", "state", "steps", "data", "journal", "due_at")},
        serial=_saga.serial + 1,
        changed_at=now_us(),
    )
)
SAVE_UNLOCKED = SAVE.where(_saga.serial == bindparam("of_serial", type_=BigInteger)).returning(now_us())
POSTPONE = (  # primary key
    update(saga_instances)
    .where(_saga.saga == bindparam("of_saga", type_=String), _saga.saga_id == bindparam("of_id", type_=String))
    .values(due_at=now_us() + bindparam("after_us", type_=BigInteger))
)
NEXT_DUE = (  # index on (service, due_at)
    select(_saga.due_at - now_us())
    .where(_saga.service == SERVICE, _saga.due_at.is_not(None), any_of(_saga.definition, texts("definitions")))
    .order_by(_saga.due_at)
    .limit(1)
)
_ended_since = select(now_us() - bindparam("age_us", type_=BigInteger)).scalar_subquery()
OLDEST_ENDED = (  # index on (state, changed_at)
    select(_saga.saga, _saga.saga_id)
    .where(
        _saga.service == SERVICE,
        or_(*(_saga.state == status for status in ENDED)),
        _saga.changed_at < _ended_since,
    )
    .limit(UP_TO)
    .with_for_update(skip_locked=True)
)
PURGE = delete(saga_instances).where(
    _saga.saga == bindparam("of_saga", type_=String), _saga.saga_id == bindparam("of_id", type_=String)
)


class RelationalSagaStore(SagaStore):
    """Instances as rows: state and journal as texts, and the instant at which to look again."""

    def start(self, sagas: Sequence[NewSaga]) -> Program[frozenset[SagaKey]]:
        """Insert what is not there."""
        rows = yield Execute(START, {"sagas": [row_of_new(one) for one in sagas]})
        return frozenset(SagaKey(*row) for row in rows)

    def lock(self, keys: Collection[SagaKey]) -> Program[Sequence[SagaRow]]:
        """Select for update, in the order of the key."""
        if not keys:
            return ()
        wanted = set(keys)
        found = yield Execute(LOCK, named_by(wanted))
        return [row for row in map(_row_of, found) if row.key in wanted]

    def due(self, service: str, definitions: Sequence[str], *, limit: int) -> Program[Sequence[SagaRow]]:
        """Select for update, past what is locked."""
        found = yield Execute(DUE, {"of_service": service, "definitions": list(definitions), "up_to": limit})
        return [_row_of(row) for row in found]

    def save(
        self, changed: Sequence[ChangedSaga], *, postponed: Mapping[SagaKey, timedelta] = NONE_POSTPONED
    ) -> Program[None]:
        """Update all in one statement; those that are postponed, which are few, one after the other."""
        if changed:
            yield from self._write(SAVE, [_row_of_changed(one) for one in changed])
        if postponed:
            yield Execute(
                POSTPONE,
                [
                    {"of_saga": key.saga, "of_id": key.saga_id, "after_us": micros(wait)}
                    for key, wait in postponed.items()
                ],
            )

    def _write(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> Program[None]:
        """Execute ``statement`` for ``rows``."""
        yield Execute(statement, {"sagas": rows})

    def save_unlocked(self, changed: ChangedSaga, *, serial: int) -> Program[int | None] | None:
        """Update it, if its serial number is what it was."""
        return _save_unlocked(changed, serial)

    def next_due(self, service: str, definitions: Sequence[str]) -> Program[timedelta | None]:
        """Select the first."""
        found = yield Execute(NEXT_DUE, {"of_service": service, "definitions": list(definitions)})
        return timedelta(seconds=found[0][0] / MICROSECONDS) if found else None

    def purge(self, service: str, older_than: timedelta, *, limit: int) -> Program[int]:
        """Lock the oldest that nobody else is at, then delete them."""
        found = yield Execute(OLDEST_ENDED, {"of_service": service, "age_us": micros(older_than), "up_to": limit})
        yield Execute(PURGE, [{"of_saga": saga, "of_id": saga_id} for saga, saga_id in found])
        return len(found)


def named_by(keys: Collection[SagaKey]) -> dict[str, Any]:
    """Return parameters that select at least ``keys``: their parts, each for itself, so that the key's index serves."""
    return {"sagas": sorted({key.saga for key in keys}), "ids": sorted({key.saga_id for key in keys})}


def row_of_new(one: NewSaga) -> dict[str, Any]:
    """Return the columns of ``one`` that its caller gives."""
    return {
        "saga": one.key.saga,
        "saga_id": one.key.saga_id,
        "service": one.service,
        "definition": f"{one.key.saga}@{one.version}",
        "version": one.version,
        "data": one.state,
        "content_type": one.content_type,
        "journal": one.journal,
        "correlation_id": one.correlation_id,
    }


def _save_unlocked(changed: ChangedSaga, serial: int) -> Program[int | None]:
    saved = yield Execute(SAVE_UNLOCKED, {"sagas": [_row_of_changed(changed)], "of_serial": serial})
    return saved[0][0] if saved else None


def _row_of_changed(one: ChangedSaga) -> dict[str, Any]:
    return {
        "saga": one.key.saga,
        "saga_id": one.key.saga_id,
        "definition": f"{one.key.saga}@{one.version}",
        "version": one.version,
        "state": one.status.value,
        "steps": one.steps,
        "data": one.state,
        "journal": one.journal,
        "due_at": one.due_us,
    }


def _row_of(row: Row) -> SagaRow:
    saga, saga_id, version, state, content_type, journal, correlation_id, serial, now = row
    return SagaRow(
        key=SagaKey(saga, saga_id),
        version=version,
        state=state,
        content_type=content_type,
        journal=journal,
        correlation_id=correlation_id,
        serial=serial,
        now_us=now,
    )
