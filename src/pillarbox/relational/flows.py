"""Where each process of a flow stands in SQL, and who takes part."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Select,
    String,
    Text,
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
    tuple_,
    update,
)

from pillarbox.flow import FlowInstances, FlowParticipants, FlowPorts, FlowsState, Participant
from pillarbox.flow.policy import FlowInstance, FlowState
from pillarbox.flow.store import Standing
from pillarbox.relational.expressions import any_of, insert_into, micros, none_of, now_us, texts
from pillarbox.relational.flow_journal import RelationalFlowJournal
from pillarbox.relational.flow_tables import flow_instances, flow_participants
from pillarbox.transaction import Execute, Program, Row

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_one = flow_instances.c
_FACTS = (
    "flow",
    "correlation_id",
    "state",
    "started_at",
    "due_at",
    "ended_at",
    "ended_by",
    "stuck_at",
    "told",
    "missing",
    "version",
)
_decode = msgspec.json.Decoder(tuple[str, ...]).decode
FLOWS = texts("flows")
FLOW = bindparam("of_flow", type_=String)
PROCESS = bindparam("of_process", type_=String)
_up_to = bindparam("up_to", type_=BigInteger)
NOW = select(now_us())
OPEN = (  # primary key
    insert_into(flow_instances)
    .values(
        flow=FLOW,
        correlation_id=PROCESS,
        state=FlowState.WAITING.value,
        told="[]",
        missing="[]",
        version=0,
        touched_at=now_us(),
    )
    .on_conflict_do_nothing()
)
LOCK = (  # primary key; of a few flows and processes each flow of each process is locked, in one order
    select(*(_one[name] for name in _FACTS))
    .where(any_of(_one.flow, FLOWS), any_of(_one.correlation_id, texts("processes")))
    .order_by(_one.flow, _one.correlation_id)
    .with_for_update()
)
_CHANGED = {
    "state": bindparam("new_state", type_=String),
    "started_at": bindparam("new_started_at", type_=BigInteger),
    "due_at": bindparam("new_due_at", type_=BigInteger),
    "ended_at": bindparam("new_ended_at", type_=BigInteger),
    "ended_by": bindparam("new_ended_by", type_=String),
    "stuck_at": bindparam("new_stuck_at", type_=BigInteger),
    "told": bindparam("new_told", type_=Text),
    "missing": bindparam("new_missing", type_=Text),
    "version": bindparam("new_version", type_=BigInteger),
    "touched_at": now_us(),
}
SAVE = update(flow_instances).where(_one.flow == FLOW, _one.correlation_id == PROCESS).values(**_CHANGED)
CHANGE = SAVE.where(_one.version == bindparam("expected", type_=BigInteger)).returning(_one.flow)
_now = select(now_us()).scalar_subquery()  # once, for an index's sake
_is_unwatched = and_(_one.state == FlowState.RUNNING.value, _one.due_at <= _now)

DUE = (  # index on (state, due_at), which has them in order
    select(*(_one[name] for name in _FACTS))
    .where(_one.state == bindparam("in_state", type_=String), _one.due_at <= _now, any_of(_one.flow, FLOWS))
    .order_by(_one.due_at)
    .limit(_up_to)
)
OVERDUE = (  # index on (state, due_at)
    select(*(_one[name] for name in _FACTS))
    .where(or_(_one.state == FlowState.STUCK.value, _is_unwatched))
    .order_by(_one.started_at, _one.correlation_id, _one.flow)
    .limit(_up_to)
)
OVERDUE_OF = OVERDUE.where(any_of(_one.flow, FLOWS))
STUCK = select(func.count(), now_us() - func.min(_one.stuck_at)).where(_one.state == FlowState.STUCK.value)
UNWATCHED = select(now_us() - func.min(_one.due_at)).where(_is_unwatched)  # index on (state, due_at)
_kept_since = select(now_us() - bindparam("age_us", type_=BigInteger)).scalar_subquery()
OLDEST = (  # index on (state, touched_at)
    select(_one.flow, _one.correlation_id)
    .where(_one.state == bindparam("in_state", type_=String), _one.touched_at < _kept_since)
    .order_by(_one.touched_at)
    .limit(_up_to)
    .with_for_update(skip_locked=True)
)
REMOVE = delete(flow_instances).where(tuple_(_one.flow, _one.correlation_id).in_(bindparam("pairs", expanding=True)))

_who = flow_participants.c
_declare = insert_into(flow_participants).values(
    consumer=bindparam("name", type_=String),
    service=bindparam("of_service", type_=String),
    facts=bindparam("what", type_=Text),
    declared_at=now_us(),
)
DECLARE = _declare.on_conflict_do_update(
    index_elements=["consumer"],
    set_={
        "service": _declare.excluded.service,
        "facts": _declare.excluded.facts,
        "declared_at": _declare.excluded.declared_at,
    },
)
FORGET = delete(flow_participants).where(
    _who.service == bindparam("of_service", type_=String), none_of(_who.consumer, texts("present"))
)
KNOWN = select(_who.facts).order_by(_who.consumer)


class RelationalFlowInstances(FlowInstances):
    """Processes as rows; messages change them under a lock, whoever looks at them by their version."""

    def lock(self, opened: Collection[tuple[str, str]], met: Collection[tuple[str, str]]) -> Program[Standing]:
        """Insert what is to be there, then lock in the order of the primary key."""
        rows = [{"of_flow": flow, "of_process": process} for flow, process in sorted(opened)]
        if rows:
            yield Execute(OPEN, rows)
        wanted = {*opened, *met}
        flows, processes = sorted({flow for flow, _ in wanted}), sorted({process for _, process in wanted})
        found = (yield Execute(LOCK, {"flows": flows, "processes": processes})) if wanted else ()
        return (yield from self._standing([row for row in found if (row[0], row[1]) in wanted]))

    def save(self, instances: Sequence[FlowInstance]) -> Program[None]:
        """Update each."""
        rows = [_values(one) for one in instances]
        if rows:
            yield Execute(SAVE, rows)

    def due(self, flows: Collection[str], *, limit: int) -> Program[Standing]:
        """Select by state and instant."""
        rows: list[Row] = []
        for state in (FlowState.RUNNING, FlowState.STUCK):
            which = {"in_state": state.value, "flows": sorted(flows), "up_to": limit}
            rows += yield Execute(DUE, which)
        oldest = sorted(rows, key=lambda row: row[_FACTS.index("due_at")])[:limit]
        return (yield from self._standing(oldest))

    def change(self, instance: FlowInstance) -> Program[bool]:
        """Compare and set."""
        return bool((yield Execute(CHANGE, {**_values(instance), "expected": instance.version})))

    def overdue(self, flows: Collection[str] | None, *, limit: int) -> Program[Standing]:
        """Select by state and instant."""
        if flows is None:
            return (yield from self._ask(OVERDUE, {"up_to": limit}))
        return (yield from self._ask(OVERDUE_OF, {"flows": sorted(flows), "up_to": limit}))

    def state(self) -> Program[FlowsState]:
        """Count."""
        stuck, oldest_us = (yield Execute(STUCK))[0]
        unwatched_us = (yield Execute(UNWATCHED))[0][0]
        return FlowsState(stuck=stuck, oldest_for=_age(oldest_us), unwatched_for=_age(unwatched_us))

    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Lock the oldest that nobody else is at, then delete them."""
        removed = 0
        for state in (FlowState.ENDED, FlowState.WAITING):
            which = {"in_state": state.value, "age_us": micros(older_than), "up_to": limit - removed}
            old = (yield Execute(OLDEST, which)) if removed < limit else ()
            if old:
                yield Execute(REMOVE, {"pairs": [tuple(row) for row in old]})
            removed += len(old)
        return removed

    def _ask(self, statement: Select[Any], parameters: dict[str, object]) -> Program[Standing]:
        found = yield Execute(statement, parameters)
        return (yield from self._standing(found))

    def _standing(self, rows: Sequence[Row]) -> Program[Standing]:
        now = (yield Execute(NOW))[0][0]
        return Standing(EPOCH + timedelta(microseconds=now), [_instance(row) for row in rows])


class RelationalFlowParticipants(FlowParticipants):
    """Participants as rows, each with its facts as JSON."""

    def enlist(
        self, service: str, participants: Sequence[Participant], elsewhere: Collection[str] = ()
    ) -> Program[None]:
        """Upsert in the order of names, then delete the rest of the service."""
        for one in sorted(participants, key=lambda one: one.consumer):
            facts = msgspec.json.encode(one.as_dict()).decode()
            yield Execute(DECLARE, {"name": one.consumer, "of_service": service, "what": facts})
        present = sorted({*elsewhere, *(one.consumer for one in participants)})
        yield Execute(FORGET, {"of_service": service, "present": present})

    def known(self) -> Program[Sequence[Participant]]:
        """Select all."""
        return [Participant.from_dict(msgspec.json.decode(row[0])) for row in (yield Execute(KNOWN))]


def relational_flows() -> FlowPorts:
    """Return what flows stand on in an SQL database."""
    return FlowPorts(
        journal=RelationalFlowJournal(),
        instances=RelationalFlowInstances(),
        participants=RelationalFlowParticipants(),
    )


def _values(one: FlowInstance) -> dict[str, object]:
    return {
        "of_flow": one.flow,
        "of_process": one.correlation_id,
        "new_state": one.state.value,
        "new_started_at": _micros(one.started_at),
        "new_due_at": _micros(one.due_at),
        "new_ended_at": _micros(one.ended_at),
        "new_ended_by": one.ended_by,
        "new_stuck_at": _micros(one.stuck_at),
        "new_told": msgspec.json.encode(one.told).decode(),
        "new_missing": msgspec.json.encode(one.missing).decode(),
        "new_version": one.version + 1,
    }


def _instance(row: Row) -> FlowInstance:
    flow, process, state, started_at, due_at, ended_at, ended_by, stuck_at, told, missing, version = row
    return FlowInstance(
        flow=flow,
        correlation_id=process,
        state=FlowState(state),
        started_at=_instant(started_at),
        due_at=_instant(due_at),
        ended_at=_instant(ended_at),
        ended_by=ended_by,
        stuck_at=_instant(stuck_at),
        told=_decode(told),
        missing=_decode(missing),
        version=version,
    )


def _micros(instant: datetime | None) -> int | None:
    return None if instant is None else micros(instant - EPOCH)


def _instant(micros_since_1970: int | None) -> datetime | None:
    return None if micros_since_1970 is None else EPOCH + timedelta(microseconds=micros_since_1970)


def _age(microseconds: int | None) -> timedelta | None:
    return None if microseconds is None else timedelta(microseconds=max(int(microseconds), 0))
