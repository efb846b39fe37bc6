"""Sagas in SQL: the transitions of many of them are read by one statement and written by one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Executable,
    Integer,
    String,
    Text,
    UnicodeText,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    text,
    update,
)

from pillarbox.relational.expressions import MICROSECONDS, any_of, insert_into, micros, now_us, rows_of, texts
from pillarbox.relational.saga_tables import saga_definitions, saga_instances
from pillarbox.saga.journal import SagaStatus
from pillarbox.saga.store import (
    ChangedSaga,
    NewSaga,
    SagaArchive,
    SagaCount,
    SagaDetails,
    SagaFilter,
    SagaKey,
    SagaRow,
    SagaStore,
    SagaSummary,
)
from pillarbox.transaction import Execute, Program, Row

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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
START = (  # primary key; a concurrent start of the same id is waited for
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
PRESENT = select(_saga.saga, _saga.saga_id).where(_one_of)  # primary key
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
NEXT_DUE = (  # index on (service, due_at)
    select(func.min(_saga.due_at) - now_us()).where(
        _saga.service == SERVICE, any_of(_saga.definition, texts("definitions"))
    )
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
        """Insert what is not there; whatever was there before is told by looking first, under its key's lock."""
        keys = [one.key for one in sagas]
        before = yield Execute(PRESENT, _named_by(keys))
        known = {SagaKey(*row) for row in before}
        fresh = [one for one in sagas if one.key not in known]
        if not fresh:
            return frozenset()
        yield Execute(START, {"sagas": [_as_row(one) for one in fresh]})
        found = yield Execute(LOCK, _named_by([one.key for one in fresh]))
        mine = {one.key: one.journal for one in fresh}  # its secret tells ours from that of another who was faster
        return frozenset(key for row in found if mine.get(key := SagaKey(row[0], row[1])) == row[5])

    def lock(self, keys: Collection[SagaKey]) -> Program[Sequence[SagaRow]]:
        """Select for update, in the order of the key."""
        if not keys:
            return ()
        wanted = set(keys)
        found = yield Execute(LOCK, _named_by(wanted))
        return [row for row in map(_row_of, found) if row.key in wanted]

    def due(self, service: str, definitions: Sequence[str], *, limit: int) -> Program[Sequence[SagaRow]]:
        """Select for update, past what is locked."""
        found = yield Execute(DUE, {"of_service": service, "definitions": list(definitions), "up_to": limit})
        return [_row_of(row) for row in found]

    def save(self, changed: Sequence[ChangedSaga]) -> Program[None]:
        """Update all in one statement."""
        if changed:
            rows = [
                {
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
                for one in changed
            ]
            yield Execute(SAVE, {"sagas": rows})

    def next_due(self, service: str, definitions: Sequence[str]) -> Program[timedelta | None]:
        """Select the smallest."""
        found = yield Execute(NEXT_DUE, {"of_service": service, "definitions": list(definitions)})
        wait_us = found[0][0]
        return None if wait_us is None else timedelta(seconds=wait_us / MICROSECONDS)

    def purge(self, service: str, older_than: timedelta, *, limit: int) -> Program[int]:
        """Lock the oldest that nobody else is at, then delete them."""
        found = yield Execute(OLDEST_ENDED, {"of_service": service, "age_us": micros(older_than), "up_to": limit})
        yield Execute(PURGE, [{"of_saga": saga, "of_id": saga_id} for saga, saga_id in found])
        return len(found)


_SUMMARY = (
    _saga.saga,
    _saga.saga_id,
    _saga.version,
    _saga.state,
    _saga.steps,
    _saga.started_at,
    _saga.changed_at,
    _saga.due_at,
)
FIND = select(*_SUMMARY).order_by(_saga.changed_at.desc(), _saga.saga, _saga.saga_id).limit(UP_TO)
GET = (  # of any definition: the index of the primary key is read as a whole; an operator's question
    select(*_SUMMARY, _saga.data, _saga.content_type, _saga.journal, _saga.correlation_id, _saga.serial)
    .where(_saga.saga_id == bindparam("of_id", type_=String))
    .order_by(_saga.saga)
)
GET_ONE = GET.where(_saga.saga == bindparam("of_saga", type_=String))
COUNTS = (
    select(_saga.saga, _saga.version, _saga.state, func.count(), now_us() - func.min(_saga.changed_at))
    .group_by(_saga.saga, _saga.version, _saga.state)
    .order_by(_saga.saga, _saga.version, _saga.state)
)
_definition = saga_definitions.c
_noted = insert_into(saga_definitions).values(
    saga=bindparam("of_saga", type_=String),
    version=bindparam("of_version", type_=Integer),
    graph=bindparam("with_graph", type_=Text),
    noted_at=now_us(),
)
NOTE = _noted.on_conflict_do_update(
    index_elements=["saga", "version"],
    set_={"graph": _noted.excluded.graph, "noted_at": _noted.excluded.noted_at},
)
_open_ones = exists().where(
    _saga.saga == _definition.saga, _saga.version == _definition.version, _saga.state.not_in(ENDED)
)
DEFINITIONS = select(_definition.saga, _definition.version, _definition.graph).where(_open_ones)


class RelationalSagaArchive(SagaArchive):
    """Questions about the rows."""

    def find(self, wanted: SagaFilter, *, limit: int) -> Program[Sequence[SagaSummary]]:
        """Select by what is said."""
        statement, values = _matching(wanted)
        found = yield Execute(statement, {**values, "up_to": limit})
        return [_summary_of(row) for row in found]

    def get(self, saga_id: str, *, saga: str | None = None) -> Program[Sequence[SagaDetails]]:
        """Select by the id."""
        if saga is None:
            found = yield Execute(GET, {"of_id": saga_id})
        else:
            found = yield Execute(GET_ONE, {"of_id": saga_id, "of_saga": saga})
        return [
            SagaDetails(
                summary=_summary_of(row),
                state=row[8],
                content_type=row[9],
                journal=row[10],
                correlation_id=row[11],
                serial=row[12],
            )
            for row in found
        ]

    def counts(self) -> Program[Sequence[SagaCount]]:
        """Group and count."""
        found = yield Execute(COUNTS)
        return [
            SagaCount(
                saga=saga,
                version=version,
                status=SagaStatus(status),
                count=count,
                oldest=timedelta(seconds=float(age_us) / MICROSECONDS),
            )
            for saga, version, status, count, age_us in found
        ]

    def note_definitions(self, graphs: Mapping[tuple[str, int], str]) -> Program[None]:
        """Insert or replace."""
        yield Execute(
            NOTE,
            [
                {"of_saga": saga, "of_version": version, "with_graph": graph}
                for (saga, version), graph in sorted(graphs.items())
            ],
        )

    def definitions(self) -> Program[Mapping[tuple[str, int], str]]:
        """Select those with instances."""
        found = yield Execute(DEFINITIONS)
        return {(saga, version): graph for saga, version, graph in found}


def _named_by(keys: Collection[SagaKey]) -> dict[str, Any]:
    """Return parameters that select at least ``keys``: their parts, each for itself, so that the key's index serves."""
    return {"sagas": sorted({key.saga for key in keys}), "ids": sorted({key.saga_id for key in keys})}


def _as_row(one: NewSaga) -> dict[str, Any]:
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


def _matching(wanted: SagaFilter) -> tuple[Executable, dict[str, Any]]:
    statement, values = FIND, dict[str, Any]()
    if wanted.saga is not None:
        named = _saga.saga.like(bindparam("named", type_=String), escape="!")
        statement = statement.where(or_(_saga.saga == bindparam("of_saga", type_=String), named))
        values |= {"of_saga": wanted.saga, "named": f"%/{_escaped(wanted.saga)}"}
    if wanted.status is not None:
        statement = statement.where(_saga.state == bindparam("in_status", type_=String))
        values["in_status"] = wanted.status.value
    if wanted.step is not None:
        around = literal(" ") + _saga.steps + literal(" ")
        statement = statement.where(around.like(bindparam("at_step", type_=String), escape="!"))
        values["at_step"] = f"% {_escaped(wanted.step)} %"
    if wanted.older_than is not None:
        statement = statement.where(_saga.started_at <= now_us() - bindparam("age_us", type_=BigInteger))
        values["age_us"] = micros(wanted.older_than)
    if wanted.text is not None:
        has = bindparam("with_text", type_=String)
        statement = statement.where(or_(_saga.data.like(has, escape="!"), _saga.journal.like(has, escape="!")))
        values["with_text"] = f"%{_escaped(wanted.text)}%"
    return statement, values


def _escaped(words: str) -> str:
    return words.replace("!", "!!").replace("%", "!%").replace("_", "!_")


def _summary_of(row: Row) -> SagaSummary:
    saga, saga_id, version, status, steps, started_us, changed_us, due_us = row[:8]
    return SagaSummary(
        saga=saga,
        saga_id=saga_id,
        version=version,
        status=SagaStatus(status),
        steps=steps,
        started_at=_instant(started_us),
        changed_at=_instant(changed_us),
        due_at=None if due_us is None else _instant(due_us),
    )


def _instant(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)
