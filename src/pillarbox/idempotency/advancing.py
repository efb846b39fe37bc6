"""``advance_state``: an event that comes late does not turn a state back."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, overload

from sqlalchemy import Column, Table, bindparam, false, or_

from pillarbox.errors import ConfigurationError
from pillarbox.idempotency.guarding import Guard, guard, guarded, key_parameters
from pillarbox.idempotency.joining import Operation, joined
from pillarbox.idempotency.outcomes import Advance, StateAdvance
from pillarbox.idempotency.states import State, StateMachine
from pillarbox.idempotency.target import Target, identifying, plain, rows_of
from pillarbox.transaction import AsyncTx, Program, SyncTx

_NOTHING: Mapping[str, object] = {}


@overload
def advance_state(
    tx: AsyncTx,
    target: Target,
    *,
    key: Mapping[str, object],
    to: State,
    order: Sequence[State] | StateMachine,
    column: str = "status",
    values: Mapping[str, object] = _NOTHING,
) -> Coroutine[Any, Any, StateAdvance]: ...
@overload
def advance_state(
    tx: SyncTx,
    target: Target,
    *,
    key: Mapping[str, object],
    to: State,
    order: Sequence[State] | StateMachine,
    column: str = "status",
    values: Mapping[str, object] = _NOTHING,
) -> StateAdvance: ...
def advance_state(
    tx: AsyncTx | SyncTx,
    target: Target,
    *,
    key: Mapping[str, object],
    to: State,
    order: Sequence[State] | StateMachine,
    column: str = "status",
    values: Mapping[str, object] = _NOTHING,
) -> StateAdvance | Coroutine[Any, Any, StateAdvance]:
    """Bring a row into the state ``to`` if a way leads there from the state it is in, by one conditional UPDATE.

    Args:
        tx: the caller's open transaction; it stays the caller's to commit. A synchronous one needs no ``await``.
        target: a table, or a mapped class.
        key: the value of each column that tells the row from all others.
        to: the new state.
        order: the states in the order in which they follow, some of which may be left out; or a ``StateMachine`` that
            says which may follow which.
        column: where the state is.
        values: what else is written when the state is.

    Raises:
        ConfigurationError: a name or a state is unknown, or the key names several rows.
        NoTransactionError: there is no open transaction; nothing was written.
    """
    rows = rows_of(target)
    machine = order if isinstance(order, StateMachine) else StateMachine.in_order(order)
    before = machine.before(to)
    plain(values, what="the values")
    names = identifying(key)
    if clash := [name for name in values if name in (column, *names)]:
        raise ConfigurationError(f"values= must not have {', '.join(clash)}, which is the state or part of the key")
    identity, assigned, (state,) = rows.named(names), rows.named(values), rows.named([column])
    advanced = _if_before(rows.table, identity, (state, *assigned), len(before))
    parameters = {
        **key_parameters(list(key.values())),
        **{f"pillarbox_value_{at}": value for at, value in enumerate([to, *values.values()])},
        **{f"pillarbox_before_{at}": one for at, one in enumerate(before)},
    }
    program = partial(_advance, advanced, parameters, machine, to)
    by_column = dict(zip((one.key for one in identity), key.values(), strict=True))
    return joined(tx, Operation(program, rows.table, by_column))


def _advance(
    guarding: Guard, parameters: Mapping[str, object], machine: StateMachine, to: State, dialect: str
) -> Program[StateAdvance]:
    seen = yield from guarded(guarding, parameters, dialect)
    match seen.row:
        case "written":
            return StateAdvance(Advance.ADVANCED, to)
        case "missing":
            return StateAdvance(Advance.MISSING)
        case "kept":
            outcome = Advance.IGNORED if machine.has_passed(seen.value, to) else Advance.REFUSED
            return StateAdvance(outcome, seen.value)


@lru_cache(maxsize=256)
def _if_before(table: Table, key: tuple[Column[Any], ...], assigned: tuple[Column[Any], ...], states: int) -> Guard:
    """Return the guard of a state that has one of so many states before it; the state is assigned first."""
    state = assigned[0]
    values = {column: bindparam(f"pillarbox_value_{at}", type_=column.type) for at, column in enumerate(assigned)}
    before = [state == bindparam(f"pillarbox_before_{at}", type_=state.type) for at in range(states)]
    return guard(table, key, values, watched=state, condition=or_(false(), *before))
