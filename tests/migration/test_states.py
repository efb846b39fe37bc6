"""No dark states: every state that a row may be in is an enum's, a CHECK's, and found by a query that goes on from it.

RELIABILITY I18: "every non-terminal row of every library table satisfies at least one recovery query".
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

import pytest
from sqlalchemy import CheckConstraint, make_url

from pillarbox.channel import Subscription
from pillarbox.consumer.positions import EarlyMessage
from pillarbox.deadletter import Burial, DeadLetterFilter, DeadLetterState, GroupState, RunState
from pillarbox.deadletter.runs import ItemState, ReplayTerms
from pillarbox.flow.policy import FlowState
from pillarbox.holding import HeldMessage, HeldState, Hold, HoldState
from pillarbox.idempotency import DoubtfulCall
from pillarbox.idempotency.calls import Ours
from pillarbox.lease import LeaseTerms
from pillarbox.message import Number
from pillarbox.ordering import Missing
from pillarbox.relational import metadata
from pillarbox.relay.reader import Aside, ReadPlan
from pillarbox.retry import Circuit, CircuitState
from pillarbox.saga.journal import SagaStatus
from pillarbox.saga.starting import new_saga
from pillarbox.saga.store import ChangedSaga, SagaFilter, SagaKey
from pillarbox.stores.sqlite import sqlite_store
from pillarbox.testing.contracts.harness import EVERY_SLOT, LONG, SHORT, make_message, make_record
from pillarbox.testing.contracts.replaying import make_due
from pillarbox.testing.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillarbox.relational import RelationalStore

RELAY = LeaseTerms(scope="relay", ttl=LONG)
WORKERS = LeaseTerms(scope="workers", slots=0, ttl=LONG)
ONE = Subscription(consumer="shop/one", channels=("topic:order",))
NOW = timedelta(0)

OUTBOX_HELD_STATES = {"parked", "held", "released", "skipped"}
STATES = {
    "pillarbox_outbox_held": OUTBOX_HELD_STATES,
    "pillarbox_holds": {state.value for state in HoldState},
    "pillarbox_held": {state.value for state in HeldState},
    "pillarbox_dead_letters": {state.value for state in DeadLetterState},
    "pillarbox_dead_letter_groups": {state.value for state in GroupState},
    "pillarbox_replay_runs": {state.value for state in RunState},
    "pillarbox_replay_items": {state.value for state in ItemState if state is not ItemState.ENQUEUED},
    "pillarbox_breakers": {state.value for state in CircuitState},
    "pillarbox_outside_calls": {"begun", "answered"},
    "pillarbox_flow_instances": {state.value for state in FlowState},
    "pillarbox_saga_instances": {status.value for status in SagaStatus},
    "pillarbox_saga_participations": {"asked", "undone"},
}
TERMINAL = {
    ("pillarbox_outbox_held", "skipped"),
    ("pillarbox_dead_letters", "resolved"),
    ("pillarbox_dead_letters", "discarded"),
    *(("pillarbox_dead_letter_groups", state.value) for state in GroupState),  # notes about letters, not work
    *(("pillarbox_replay_runs", state) for state in ("finished", "stopped", "cancelled")),
    *(("pillarbox_replay_items", state) for state in ("resolved", "failed", "passed")),
    ("pillarbox_breakers", "closed"),
    ("pillarbox_outside_calls", "answered"),
    ("pillarbox_flow_instances", "ended"),
    ("pillarbox_saga_instances", "completed"),
    ("pillarbox_saga_instances", "compensated"),
    *(("pillarbox_saga_participations", state) for state in ("asked", "undone")),  # what was asked, removed by age
}
WITHOUT_WORK = {
    "pillarbox_schema_version": "notes the past",
    "pillarbox_inbox": "only processed ids, removed by age",
    "pillarbox_applied_operations": "only applied operations, removed by age",
    "pillarbox_subscriptions": "who listens",
    "pillarbox_consumers": "who is registered",
    "pillarbox_members": "who lives; expires",
    "pillarbox_waits": "what heads of holds wait for; the holds come due, whatever stands here",
    "pillarbox_outbox_cursor": "how far a sequence relay has come",
    "pillarbox_outbox_cursor_history": "when a sequence relay had come how far",
    "pillarbox_outbox_checkpoint": "how far a log tailing relay has come",
    "pillarbox_outbox_published": "kept for republishing, removed by age",
    "pillarbox_dead_letter_edits": "earlier bodies, removed with their letters",
    "pillarbox_operator_acts": "notes the past",
    "pillarbox_outbox_holds": "a mark on keys whose rows are in outbox_held",
    "pillarbox_key_numbers": "how far producers have counted",
    "pillarbox_key_positions": "how far consumers have come in each line of numbers",
    "pillarbox_skipped_numbers": "what consumers went on without",
    "pillarbox_flow_messages": "what was seen of flows, removed by age",
    "pillarbox_flow_participants": "who takes part in flows",
    "pillarbox_saga_definitions": "the steps of definitions as they were last run",
    "pillarbox_saga_locks": "who has what of the business; expires",
}
"""Tables whose rows wait for nothing, and why."""

Check: TypeAlias = Callable[["RelationalStore"], Awaitable[None]]
RECOVERED: dict[tuple[str, str], Check] = {}
"""For each table and state a test that puts a row into it and finds it with the query that goes on from there."""


def recovers(table: str, state: str = "") -> Callable[[Check], Check]:
    """Register the proof for one state."""

    def register(check: Check) -> Check:
        RECOVERED[table, state] = check
        return check

    return register


@pytest.fixture
async def store() -> AsyncIterator[RelationalStore]:
    """A store in memory: the queries are the same for every database."""
    made = sqlite_store(make_url("sqlite://"))
    await made.migrate()
    yield made
    await made.close()


def _checked_states() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for table in metadata.tables.values():
        for constraint in table.constraints:
            if isinstance(constraint, CheckConstraint) and "state IN" in str(constraint.sqltext):
                found[table.name] = set(re.findall(r"'(\w+)'", str(constraint.sqltext)))
    return found


def test_the_database_allows_the_states_of_the_enums_and_no_others() -> None:
    assert _checked_states() == STATES


def test_every_table_with_a_state_checks_it() -> None:
    assert {name for name, table in metadata.tables.items() if "state" in table.columns} == set(STATES)


def test_every_state_of_every_table_is_recovered_or_terminal() -> None:
    stateful = {(table, state) for table, states in STATES.items() for state in states}
    stateless = {(name, "") for name in metadata.tables if name not in STATES and name not in WITHOUT_WORK}

    assert set(RECOVERED) | TERMINAL == stateful | stateless
    assert not set(RECOVERED) & TERMINAL


# --- the proofs ------------------------------------------------------------------------------------------------------


@recovers("pillarbox_outbox")
async def _pending(store: RelationalStore) -> None:
    await store.run(store.outbox.append([make_record("m1")]))

    assert len(await _read(store)) == 1


@recovers("pillarbox_outbox_scheduled")
async def _scheduled(store: RelationalStore) -> None:
    await store.run(store.outbox.append([replace(make_record("m1"), due_in=SHORT)]))
    tokens = await _tokens(store)

    async def released() -> int:
        return await store.run(store.slots.release_due(RELAY.scope, tokens, limit=10))

    assert await wait_until(released) == 1
    assert len(await _read(store)) == 1


@recovers("pillarbox_outside_calls", "begun")
async def _begun(store: RelationalStore) -> None:
    await store.run(store.calls.begin("k", token="gone", hold=SHORT, repeatable_for=LONG))

    async def in_doubt() -> Sequence[DoubtfulCall]:
        return await store.run(store.calls.in_doubt(limit=10))

    assert [one.key for one in await wait_until(in_doubt)] == ["k"]  # a person may decide
    assert await store.run(store.calls.begin("k", token="new", hold=LONG, repeatable_for=LONG)) == Ours()


async def _flow(store: RelationalStore, state: FlowState) -> None:
    standing = await store.run(store.flows.instances.lock([("shop/f", "p-1")], ()))
    now = standing.now
    one = replace(standing.instances[0], state=state, started_at=now, due_at=now, stuck_at=now)
    await store.run(store.flows.instances.save([one]))


@recovers("pillarbox_flow_instances", "waiting")
async def _not_begun(store: RelationalStore) -> None:
    await store.run(store.flows.instances.lock([("shop/f", "p-1")], ()))

    (found,) = (await store.run(store.flows.instances.lock([("shop/f", "p-1")], ()))).instances  # its start finds it

    assert found.state is FlowState.WAITING

    async def removed() -> int:
        return await store.run(store.flows.instances.purge(NOW, limit=9))

    assert await wait_until(removed) == 1


@recovers("pillarbox_flow_instances", "running")
async def _under_way(store: RelationalStore) -> None:
    await _flow(store, FlowState.RUNNING)

    assert len((await store.run(store.flows.instances.due(["shop/f"], limit=9))).instances) == 1
    assert (await store.run(store.flows.instances.state())).unwatched_for is not None  # health names it until then


@recovers("pillarbox_flow_instances", "stuck")
async def _stuck(store: RelationalStore) -> None:
    await _flow(store, FlowState.STUCK)

    assert len((await store.run(store.flows.instances.due(["shop/f"], limit=9))).instances) == 1
    assert len((await store.run(store.flows.instances.overdue(None, limit=9))).instances) == 1
    assert (await store.run(store.flows.instances.state())).stuck == 1  # health names it until it is closed


@recovers("pillarbox_outbox_held", "parked")
async def _parked(store: RelationalStore) -> None:
    await _park_first_of_two(store)

    assert (await store.run(store.outbox.state())).parked == 1  # health names it until an operator decides
    assert await store.run(store.parked.release("m1")) == 1


@recovers("pillarbox_outbox_held", "held")
async def _behind(store: RelationalStore) -> None:
    tokens = await _park_first_of_two(store)
    (behind,) = await _read(store)
    assert await store.run(store.slots.put_aside(RELAY.scope, tokens, [Aside(position=behind, is_behind=True)]))

    assert (await store.run(store.outbox.state())).held == 1
    assert await store.run(store.parked.release("m1")) == 2  # the decision about the parked one frees those behind it


@recovers("pillarbox_outbox_held", "released")
async def _released(store: RelationalStore) -> None:
    await _park_first_of_two(store)
    await store.run(store.parked.release("m1"))

    (one,) = await store.run(store.held_records.read(slots=EVERY_SLOT, paused=(), limit=9))
    assert one.message.id == "m1"


@recovers("pillarbox_leases")
async def _leased_by_the_dead(store: RelationalStore) -> None:
    await store.run(store.leases.heartbeat(replace(RELAY, ttl=SHORT), "dead"))

    async def taken() -> bool:
        return bool((await store.run(store.leases.heartbeat(RELAY, "living"))).tokens)

    await wait_until(taken)


@recovers("pillarbox_queue")
async def _queued(store: RelationalStore) -> None:
    await store.run(store.queue.subscribe(ONE))
    await store.run(store.queue.enqueue([make_message("m1")]))

    assert len(await store.run(store.queue.read(ONE, slots=EVERY_SLOT, leave_out=(), limit=9))) == 1


@recovers("pillarbox_attempts")
async def _attempted_by_the_dead(store: RelationalStore) -> None:
    await store.run(store.attempts.start("shop/one", ["m1"], worker="dead"))
    await store.run(store.leases.heartbeat(WORKERS, "living"))

    assert set(await store.run(store.attempts.start("shop/one", ["m1"], worker="living"))) == {"m1"}


@recovers("pillarbox_claims")
async def _claimed_by_the_dead(store: RelationalStore) -> None:
    await store.run(store.claims.claim("shop/one", ["m1"], token="dead", ttl=SHORT))

    async def claimed() -> bool:
        return bool(await store.run(store.claims.claim("shop/one", ["m1"], token="living", ttl=LONG)))

    await wait_until(claimed)


@recovers("pillarbox_holds", "waiting")
async def _waiting(store: RelationalStore) -> None:
    await store.run(store.holding.hold("shop/one", [Hold(hold_key="k:1")]))

    assert await _lease(store, ttl=SHORT) == 1

    async def taken_over() -> bool:
        return await _lease(store, token="another") == 1

    await wait_until(taken_over)


@recovers("pillarbox_holds", "blocked")
async def _blocked(store: RelationalStore) -> None:
    await store.run(store.holding.hold("shop/one", [Hold(hold_key="k:1", state=HoldState.BLOCKED)]))

    assert (await store.run(store.holding.state())).blocked == 1  # health names it until an operator decides
    await store.run(store.holding.hold("shop/one", [Hold(hold_key="k:1")]))  # as a replay does
    assert await _lease(store) == 1


async def _found_at_the_head(store: RelationalStore, state: HeldState) -> None:
    message = HeldMessage(hold_key="k:1", message=make_message("m1"), state=state)
    await store.run(store.holding.hold("shop/one", [Hold(hold_key="k:1")]))
    await store.run(store.holding.append("shop/one", [message]))
    await _lease(store)

    (found,) = await store.run(store.holding.heads("shop/one", token="t", per_key=9))
    assert found.state == state


@recovers("pillarbox_held", "retrying")
async def _retrying(store: RelationalStore) -> None:
    await _found_at_the_head(store, HeldState.RETRYING)


@recovers("pillarbox_held", "held")
async def _held(store: RelationalStore) -> None:
    await _found_at_the_head(store, HeldState.HELD)


@recovers("pillarbox_held", "replaying")
async def _replaying(store: RelationalStore) -> None:
    await _found_at_the_head(store, HeldState.REPLAYING)


@recovers("pillarbox_breakers", "open")
async def _open(store: RelationalStore) -> None:
    opened = Circuit().opened(SHORT, reason="TimeoutError")
    await store.run(store.circuits.change("shop/gateway", opened, expected=0))

    await _is_probed(store)


@recovers("pillarbox_breakers", "half_open")
async def _probed_by_the_dead(store: RelationalStore) -> None:
    probed = Circuit().opened(NOW, reason="TimeoutError").probed("dead", lease=SHORT)
    await store.run(store.circuits.change("shop/gateway", probed, expected=0))

    await _is_probed(store)


async def _is_probed(store: RelationalStore) -> None:
    async def taken() -> bool:
        circuit = await store.run(store.circuits.read("shop/gateway"))
        if not circuit.may_be_probed:
            return False
        probed = circuit.probed("living", lease=LONG)
        return await store.run(store.circuits.change("shop/gateway", probed, expected=circuit.version))

    await wait_until(taken)


@recovers("pillarbox_early")
async def _early(store: RelationalStore) -> None:
    line = ("topic:order", "k")
    early = EarlyMessage(number=Number(1, 2), hold_key="k:k", message=make_message("m2"))
    await store.run(store.positions.lock("shop/one", {line: 1}))
    await store.run(store.positions.put_early("shop/one", [early]))

    (gap,) = await store.run(store.gaps.due("shop/one", wait=NOW, full_at=9, limit=9))
    assert gap.missing == Missing(first=Number(1, 1), last=1)


@recovers("pillarbox_dead_letters", "dead")
async def _dead(store: RelationalStore) -> None:
    await _bury(store)

    (letter,) = await store.run(store.dead_letters.find(DeadLetterFilter(), after=0, limit=9))
    assert await store.run(store.dead_letters.move(letter.id, to=DeadLetterState.REPLAYING))


@recovers("pillarbox_dead_letters", "replaying")
async def _letter_replaying(store: RelationalStore) -> None:
    await _dead(store)  # a replay puts the message into holding, in the same transaction
    await _found_at_the_head(store, HeldState.REPLAYING)

    await store.run(store.dead_letters.resolve("shop/one", ["m1"]))
    (letter,) = await store.run(store.dead_letters.find(DeadLetterFilter(state=None), after=0, limit=9))
    assert letter.state == DeadLetterState.RESOLVED


@recovers("pillarbox_replay_runs", "open")
async def _open_run(store: RelationalStore) -> None:
    runs = store.operators.runs
    await store.run(runs.create("r1", DeadLetterFilter(), ReplayTerms(), by="ann"))

    assert list(await store.run(runs.find(RunState.OPEN, limit=9))) == ["r1"]
    assert await store.run(runs.end("r1", state=RunState.FINISHED, because=""))


@recovers("pillarbox_replay_items", "pending")
async def _item_pending(store: RelationalStore) -> None:
    await _bury(store)
    await _open_run_of_letters(store)

    assert await store.run(make_due(store.operators.runs, store.operators.batches, "r1", at_most=9)) == 1
    assert await _lease(store) == 1
    await store.run(store.dead_letters.resolve("shop/one", ["m1"]))

    run = await store.run(store.operators.runs.get("r1"))
    assert run is not None
    assert dict(run.items) == {ItemState.RESOLVED: 1}


@pytest.mark.parametrize("state", sorted(RECOVERED), ids=" ".join)
async def test_a_row_in_this_state_is_found_by_the_query_that_goes_on_from_there(
    store: RelationalStore, state: tuple[str, str]
) -> None:
    await RECOVERED[state](store)


# --- small verbs -----------------------------------------------------------------------------------------------------


async def _tokens(store: RelationalStore) -> list[int]:
    return list((await store.run(store.leases.heartbeat(RELAY, "relay"))).tokens.values())


async def _read(store: RelationalStore) -> list[int]:
    plan = ReadPlan(slots=EVERY_SLOT, in_flight=(), paused=(), limit=9)
    return [one.position for one in await store.run(store.slots.read(plan))]


async def _park_first_of_two(store: RelationalStore) -> list[int]:
    await store.run(store.outbox.append([make_record("m1"), make_record("m2")]))
    tokens = await _tokens(store)
    position = (await _read(store))[0]
    assert await store.run(store.slots.put_aside(RELAY.scope, tokens, [Aside(position=position, refused="refused")]))
    return tokens


async def _lease(store: RelationalStore, *, token: str = "t", ttl: timedelta = LONG) -> int:
    return await store.run(store.holding.lease_due("shop/one", token=token, limit=9, ttl=ttl))


async def _open_run_of_letters(store: RelationalStore) -> None:
    await store.run(store.operators.runs.create("r1", DeadLetterFilter(), ReplayTerms(), by="ann"))


async def _bury(store: RelationalStore) -> None:
    message = make_message("m1")
    dead = Burial(
        hold_key="k:1", message=message, reason="permanent", attempts=1, history=(), stack="", fingerprint="cause"
    )
    await store.run(store.dead_letters.bury("shop/one", [dead]))


SAGA = SagaKey("shop/fulfilment", "o-1")


async def _started(store: RelationalStore) -> None:
    new = new_saga(SAGA, service="shop", version=1, state="{}", content_type="application/json")
    await store.run(store.sagas.start([new]))


@recovers("pillarbox_saga_instances", "running")
async def _running_saga(store: RelationalStore) -> None:
    await _started(store)

    assert [row.key for row in await store.run(store.sagas.due("shop", ["shop/fulfilment@1"], limit=9))] == [SAGA]


async def _brought_to(store: RelationalStore, status: SagaStatus, *, is_due: bool) -> None:
    await _started(store)
    (row,) = await store.run(store.sagas.lock([SAGA]))
    changed = ChangedSaga(
        key=SAGA, version=1, status=status, steps="", state="{}", journal="{}", due_us=row.now_us if is_due else None
    )
    await store.run(store.sagas.save([changed]))


@recovers("pillarbox_saga_instances", "compensating")
async def _compensating_saga(store: RelationalStore) -> None:
    await _brought_to(store, SagaStatus.COMPENSATING, is_due=True)

    assert [row.key for row in await store.run(store.sagas.due("shop", ["shop/fulfilment@1"], limit=9))] == [SAGA]


@recovers("pillarbox_saga_instances", "needs_attention")
async def _saga_that_needs_attention(store: RelationalStore) -> None:
    """An operator's list finds it; nothing else does."""
    await _brought_to(store, SagaStatus.NEEDS_ATTENTION, is_due=False)

    found = await store.run(store.saga_archive.find(SagaFilter(status=SagaStatus.NEEDS_ATTENTION), limit=9))
    assert [one.saga_id for one in found] == ["o-1"]
    assert await store.run(store.sagas.purge("shop", NOW, limit=9)) == 0
