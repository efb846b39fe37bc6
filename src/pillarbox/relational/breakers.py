"""Circuits of dependencies in SQL: a row for each, changed by its version."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import BigInteger, Integer, String, Text, bindparam, delete, func, select, update

from pillarbox.consumer.circuits import CircuitStore, KnownCircuit
from pillarbox.relational.expressions import characters_in, insert_into, micros, none_of, now_us, texts
from pillarbox.relational.tables import breakers
from pillarbox.retry import Circuit, CircuitState
from pillarbox.transaction import Execute, Program

OF = bindparam("of_dependency", type_=String)
CLOSED = {"version": 0, "state": CircuitState.CLOSED.value, "openings": 0, "wait_until": 0, "reason": "", "since": 0}
FACTS = (
    breakers.c.version,
    breakers.c.state,
    breakers.c.openings,
    breakers.c.wait_until - now_us(),
    breakers.c.probe,
    breakers.c.reason,
    now_us() - breakers.c.since,
)
READ = select(*FACTS).where(breakers.c.dependency == OF)  # primary key
ADD = insert_into(breakers).values(dependency=OF, needed_by="", **CLOSED).on_conflict_do_nothing()
CHANGE = (  # primary key
    update(breakers)
    .where(breakers.c.dependency == OF, breakers.c.version == bindparam("expected", type_=BigInteger))
    .values(
        version=bindparam("new_version", type_=BigInteger),
        state=bindparam("new_state", type_=String),
        openings=bindparam("new_openings", type_=Integer),
        wait_until=now_us() + bindparam("wait_us", type_=BigInteger),
        probe=bindparam("new_probe", type_=String),
        reason=bindparam("new_reason", type_=Text),
        since=now_us() - bindparam("away_us", type_=BigInteger),
    )
    .returning(breakers.c.dependency)
)
_need = insert_into(breakers).values(dependency=OF, needed_by=bindparam("consumers", type_=Text), **CLOSED)
NEED = _need.on_conflict_do_update(index_elements=["dependency"], set_={"needed_by": _need.excluded.needed_by})
_prefix = bindparam("prefix", type_=String)
_of_service = func.substr(breakers.c.dependency, 1, characters_in(_prefix)) == _prefix
FORGET = delete(breakers).where(_of_service, none_of(breakers.c.dependency, texts("needed")))
NEEDED = select(breakers.c.dependency, breakers.c.needed_by).where(_of_service)
KNOWN = select(breakers.c.dependency, breakers.c.needed_by, *FACTS).order_by(breakers.c.dependency)


class RelationalCircuitStore(CircuitStore):
    """Circuits as rows."""

    def read(self, dependency: str) -> Program[Circuit]:
        """Select the row."""
        rows = yield Execute(READ, {"of_dependency": dependency})
        return _circuit(*rows[0]) if rows else Circuit()

    def change(self, dependency: str, circuit: Circuit, *, expected: int) -> Program[bool]:
        """Update the row if its version is the expected one; a missing row has version 0."""
        if not expected:
            yield Execute(ADD, {"of_dependency": dependency})
        changed = yield Execute(
            CHANGE,
            {
                "of_dependency": dependency,
                "expected": expected,
                "new_version": circuit.version,
                "new_state": circuit.state.value,
                "new_openings": circuit.openings,
                "wait_us": micros(circuit.wait),
                "new_probe": circuit.probe,
                "new_reason": circuit.reason,
                "away_us": micros(circuit.away_for),
            },
        )
        return bool(changed)

    def enlist(
        self, service: str, needed: Mapping[str, Sequence[str]], elsewhere: Collection[str] = ()
    ) -> Program[None]:
        """Upsert what is needed, in sorted order, and delete the rest of the service."""
        wanted = {dependency: set(consumers) for dependency, consumers in needed.items()}
        for dependency, consumers in (yield Execute(NEEDED, {"prefix": f"{service}/"})) if elsewhere else ():
            if others := {*consumers.split()} & {*elsewhere}:
                wanted.setdefault(dependency, set()).update(others)
        for dependency, names in sorted(wanted.items()):
            yield Execute(NEED, {"of_dependency": dependency, "consumers": " ".join(sorted(names))})
        yield Execute(FORGET, {"prefix": f"{service}/", "needed": sorted(wanted)})

    def known(self) -> Program[Sequence[KnownCircuit]]:
        """Select all rows."""
        return [
            KnownCircuit(dependency=dependency, circuit=_circuit(*facts), needed_by=tuple(needed_by.split()))
            for dependency, needed_by, *facts in (yield Execute(KNOWN))
        ]


def _circuit(*facts: Any) -> Circuit:
    version, state, openings, wait_us, probe, reason, away_us = facts
    circuit = Circuit(version=version, state=CircuitState(state))
    if circuit.is_closed:
        return circuit
    return Circuit(
        version=version,
        state=circuit.state,
        openings=openings,
        wait=timedelta(microseconds=max(wait_us, 0)),
        probe=probe,
        reason=reason,
        away_for=timedelta(microseconds=max(away_us, 0)),
    )
