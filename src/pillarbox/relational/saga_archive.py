"""Sagas as people and checks ask for them, in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Executable,
    Integer,
    String,
    Text,
    bindparam,
    exists,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
)

from pillarbox.relational.expressions import MICROSECONDS, insert_into, micros, now_us
from pillarbox.relational.saga_tables import saga_definitions, saga_instances
from pillarbox.relational.sagas import ENDED, UP_TO
from pillarbox.saga.journal import SagaStatus
from pillarbox.saga.store import (
    OverdueSagas,
    SagaArchive,
    SagaCount,
    SagaDetails,
    SagaFilter,
    SagasInNeed,
    SagaSummary,
)
from pillarbox.transaction import Execute, Program, Row

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_saga = saga_instances.c
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
IN_NEED = select(  # index on (state, changed_at)
    func.count(), now_us() - func.min(_saga.changed_at)
).where(_saga.state == literal_column(f"'{SagaStatus.NEEDS_ATTENTION}'"))  # spelled out: the planner knows it is rare
_first = select(func.min(_saga.service).label("service")).cte("services", recursive=True)
_next = select(func.min(_saga.service)).where(_saga.service > _first.c.service).correlate(_first).scalar_subquery()
_services = _first.union_all(select(_next).where(_first.c.service.is_not(None)))
_due_first = (
    select(func.min(_saga.due_at)).where(_saga.service == _services.c.service).correlate(_services).scalar_subquery()
)
OVERDUE = select(  # index on (service, due_at), from one service to the next
    _services.c.service, now_us() - _due_first
).where(_services.c.service.is_not(None), _due_first <= now_us())
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
                oldest=_age(age_us),
            )
            for saga, version, status, count, age_us in found
        ]

    def in_need(self) -> Program[SagasInNeed]:
        """Count those in one state."""
        count, oldest_us = (yield Execute(IN_NEED))[0]
        return SagasInNeed(count=count, oldest_for=None if oldest_us is None else _age(oldest_us))

    def overdue(self) -> Program[Sequence[OverdueSagas]]:
        """Step from service to service, and look at the first of each."""
        found = yield Execute(OVERDUE)
        late = {service: _age(late_us) for service, late_us in found}
        return [OverdueSagas(service=service, oldest_for=late[service]) for service in sorted(late)]

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


def _matching(wanted: SagaFilter) -> tuple[Executable, dict[str, Any]]:
    statement, values, found = FIND, dict[str, Any](), list[ColumnElement[bool]]()
    if wanted.saga is not None:
        named = _saga.saga.like(bindparam("named", type_=String), escape="!")
        statement = statement.where(or_(_saga.saga == bindparam("of_saga", type_=String), named))
        values |= {"of_saga": wanted.saga, "named": f"%/{_escaped(wanted.saga)}"}
    if wanted.version is not None:
        statement = statement.where(_saga.version == bindparam("of_version", type_=BigInteger))
        values["of_version"] = wanted.version
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
        for number, spelled in enumerate(_spellings(wanted.text)):
            has = func.lower(bindparam(f"with_text_{number}", type_=String))  # some fold case in LIKE, others do not
            found += (func.lower(text).like(has, escape="!") for text in (_saga.data, _saga.journal))
            values[f"with_text_{number}"] = f"%{_escaped(spelled)}%"
        statement = statement.where(or_(false(), *found))
    return statement, values


def _spellings(words: str) -> Sequence[str]:
    """Return how ``words`` may stand in what is kept: as they are, and as a text of JSON; none where they cannot."""
    try:
        written = msgspec.json.encode(words).decode()[1:-1]
    except UnicodeEncodeError:
        return ()
    return (written,) if "\0" in words else tuple(dict.fromkeys((words, written)))


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


def _age(microseconds: int) -> timedelta:
    return max(timedelta(seconds=float(microseconds) / MICROSECONDS), timedelta(0))
