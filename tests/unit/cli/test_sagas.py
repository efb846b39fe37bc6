"""The commands that work with sagas."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Saga
from pillarbox.relational import RelationalStore
from pillarbox.saga.catalogue import Catalogue
from pillarbox.saga.journal import ActState, Direction, Entry, Journal, Progress, SagaStatus, encode_journal
from pillarbox.saga.starting import new_saga
from pillarbox.saga.store import ChangedSaga, SagaKey
from pillarbox.transaction import Program
from tests.unit.cli.conftest import Shell

WHY = ("--reason", "seen by hand", "--by", "ann")
SAGA = "shop/fulfil"
Put = Callable[..., None]

STUCK = Journal(
    status=SagaStatus.NEEDS_ATTENTION,
    do={
        "pay": Progress(state=ActState.DONE, attempts=2, place=1),
        "ship": Progress(state=ActState.FAILED, attempts=5, place=2, error="NoTruckError: postgresql://a:s3cret@db"),
    },
    undo={"pay": Progress(state=ActState.FAILED, attempts=60, place=3, error="BankError")},
    history=(Entry(at_us=1_900_000_000_000_000, what="given up", step="pay", direction=Direction.UNDO, attempt=60),),
    secret="hidden",
)

COMPLETED = Journal(status=SagaStatus.COMPLETED)


@pytest.fixture
def put(pillarbox: Shell) -> Put:
    """Puts a saga with a journal into the store."""

    def put(saga_id: str, journal: Journal = STUCK, *, saga: str = SAGA, steps: str = "", version: int = 1) -> None:
        key = SagaKey(saga, saga_id)

        def putting(store: RelationalStore) -> Program[None]:
            service = saga.partition("/")[0]
            new = new_saga(key, service=service, version=version, state='{"card": "4111"}', content_type="a/json")
            yield from store.sagas.start([new])
            changed = ChangedSaga(
                key=key,
                version=version,
                status=journal.status,
                steps=steps,
                state='{"card": "4111"}',
                journal=encode_journal(journal).decode(),
                due_us=None,
            )
            yield from store.sagas.save([changed])

        pillarbox.run(putting)

    return put


def test_sagas_are_listed_by_filter_without_their_state(pillarbox: Shell, put: Put) -> None:
    put("o-1")
    put("o-2", Journal(), steps="pay", saga="shop/return")

    assert "there are no such sagas" in pillarbox.text("saga", "list", "--saga", "other")
    assert [one["saga_id"] for one in pillarbox.json("saga", "list", "--status", "needs_attention")] == ["o-1"]
    assert [one["saga_id"] for one in pillarbox.json("saga", "list", "--step", "pay")] == ["o-2"]
    assert [one["saga_id"] for one in pillarbox.json("saga", "list", "--saga", "return", "--text", "4111")] == ["o-2"]
    assert pillarbox.json("saga", "list", "--older-than", "1h") == []
    assert len(pillarbox.json("saga", "list", "--limit", "1")) == 1
    text = pillarbox.text("saga", "list")
    assert "needs_attention" in text
    assert "4111" not in text
    assert pillarbox("saga", "list", "--status", "lost").exit_code == 2


def test_a_saga_is_shown_with_steps_history_and_acts(pillarbox: Shell, put: Put) -> None:
    put("o-1")
    pillarbox.text("saga", "retry", "o-1", *WHY)

    told = pillarbox.json("saga", "show", "o-1")

    assert (told["saga"], told["status"], told["past_pivot"]) == (SAGA, "compensating", False)
    assert [(one["step"], one["direction"], one["state"]) for one in told["steps"]] == [
        ("pay", "do", "done"),
        ("ship", "do", "failed"),
    ]
    assert [one["what"] for one in told["history"]] == ["given up", "retried"]
    assert told["history"][0]["act"] == "undo pay (attempt 60)"
    assert [(one["by"], one["what"], one["reason"]) for one in told["acts"]] == [("ann", "retry", "seen by hand")]
    text = pillarbox.text("saga", "show", "o-1", "--saga", "fulfil")
    assert "retry by ann" in text
    assert "NoTruckError" in text


def test_state_and_secrets_are_hidden(pillarbox: Shell, put: Put) -> None:
    put("o-1")

    hidden = pillarbox.text("saga", "show", "o-1") + pillarbox.text("saga", "show", "o-1", "--json")

    assert "4111" not in hidden
    assert "hidden" not in hidden
    assert "s3cret" not in hidden
    assert pillarbox.json("saga", "show", "o-1", "--state")["state"] == '{"card": "4111"}'
    assert "4111" in pillarbox.text("saga", "show", "o-1", "--state")


def test_each_verb_decides_and_says_where_the_saga_stands(pillarbox: Shell, put: Put) -> None:
    running = Journal(do={"pay": Progress(state=ActState.DONE, attempts=1, place=1)})
    for saga_id in ("o-1", "o-2"):
        put(saga_id)
    for saga_id in ("o-3", "o-4"):
        put(saga_id, running)

    assert pillarbox.json("saga", "retry", "o-1", *WHY)["status"] == "compensating"
    assert pillarbox.json("saga", "skip", "o-2", "pay", *WHY)["verb"] == "skip"
    assert "o-3 is running" in pillarbox.text("saga", "cancel", "o-3", *WHY)
    assert pillarbox.json("saga", "compensate", "o-4", *WHY)["by"] == "ann"
    assert pillarbox.json("saga", "show", "o-3")["stopped_because"] == "seen by hand"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("retry", "gone", *WHY), "there is no saga 'gone'"),
        (("retry", "twice", *WHY), "several sagas bear the id 'twice'"),
        (("skip", "o-1", "ship", *WHY), "it is being undone"),
        (("cancel", "o-1", *WHY), "undoing 'pay' has failed"),
        (("retry", "o-1"), "--reason"),
        (("retry", "o-1", "--reason", " "), "--reason must say something"),
        (("retry", "o-1", "--reason", "a\udcffb"), "--reason must have no NUL character and no lone surrogate"),
        (("retry", "o-1", "--reason", "why", "--by", "a" * 201), "--by must have at most 200 characters"),
        (("retry", "o-1", "--reason", "why", "--by", "a\0b"), "--by must have no NUL character"),
    ],
)
def test_what_cannot_be_decided_says_why(pillarbox: Shell, put: Put, words: tuple[str, ...], says: str) -> None:
    put("o-1")
    put("twice")
    put("twice", saga="shop/return")

    done = pillarbox("saga", *words)

    assert done.exit_code == 2
    assert says in done.stderr
    assert pillarbox.json("saga", "show", "o-1")["acts"] == []


def test_a_line_feed_in_an_id_does_not_make_a_line_of_a_table(pillarbox: Shell, put: Put) -> None:
    put("o-1\no-2  shop/fulfil  1  completed")

    listed = pillarbox.text("saga", "list")

    assert sum("o-1" in line or "o-2" in line for line in listed.splitlines()) == 1


@dataclass
class Order:
    order_id: str = ""


@dataclass
class Weighed:
    grams: int


async def nothing(state: Order, tx: AsyncConnection) -> None:
    """Do nothing."""


def program(
    monkeypatch: pytest.MonkeyPatch, url: str, *steps: str, version: int = 1, state: Any = Order, **upcasters: Any
) -> Pillarbox:
    """Return the box of a program that can be imported as ``todays``."""
    box = Pillarbox("shop", store=url)
    if steps:
        fulfil = Saga("fulfil", state=state, version=version, **upcasters)
        for step in steps:
            fulfil.step(name=step)(nothing)
        box.include(fulfil)
    module = ModuleType("todays")
    module.box = box  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "todays", module)
    return box


def test_check_finds_what_today_s_definitions_cannot_go_on_with(
    pillarbox: Shell, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Catalogue(program(monkeypatch, pillarbox.url, "pay", "ship").saga_definitions())
    pillarbox.run(lambda store: store.saga_archive.note_definitions(before.graphs))
    put("o-1", Journal())
    put("o-1", Journal(), saga="billing/collect")  # another service's is none of its business

    same = pillarbox("saga", "check", "todays:box", store=False)
    program(monkeypatch, pillarbox.url, "pay", "pack", "ship")
    changed = pillarbox("saga", "check", "todays", store=False)
    program(monkeypatch, "memory://", "pay", "ship", version=2)
    elsewhere = pillarbox("saga", "check", "todays", "--json")
    program(monkeypatch, pillarbox.url)
    gone = pillarbox("saga", "check", "todays", store=False)

    assert (same.exit_code, same.output) == (0, "whatever of shop is under way can go on with shop/fulfil version 1\n")
    assert changed.exit_code == gone.exit_code == elsewhere.exit_code == 1
    assert "break: the steps of shop/fulfil version 1 have changed" in changed.output
    assert "nothing here runs them" in gone.output
    told = msgspec.json.decode(elsewhere.output)
    assert told["sagas"] == ["shop/fulfil version 2"]
    assert "give a newer one upcasters" in told["breaks"][0]


def test_check_finds_what_was_started_in_a_version_that_no_process_has_run_yet(
    pillarbox: Shell, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(monkeypatch, pillarbox.url, "pay", "ship")
    put("o-1", Journal(), version=2)  # by a program that only starts sagas, of a release that was taken back
    put("o-2", COMPLETED, version=3)

    done = pillarbox("saga", "check", "todays:box", store=False)

    assert done.exit_code == 1
    assert "break: instances of shop/fulfil version 2 are under way and nothing here runs them" in done.output
    assert "version 3" not in done.output


def test_check_finds_what_today_s_definitions_cannot_read(
    pillarbox: Shell, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("o-1", Journal())
    put("o-2", COMPLETED)

    program(monkeypatch, pillarbox.url, "pay", "ship", state=Weighed)
    changed = pillarbox("saga", "check", "todays", store=False)
    program(monkeypatch, pillarbox.url, "pay", "ship", version=2, upcasters={1: lambda state: {**state["weight"]}})
    raises = pillarbox("saga", "check", "todays", store=False)
    program(monkeypatch, pillarbox.url, "pay", "ship", version=2, upcasters={1: lambda state: state})
    reads = pillarbox("saga", "check", "todays", store=False)

    assert (changed.exit_code, raises.exit_code, reads.exit_code) == (1, 1, 0)
    assert "version 1 cannot read instance 'o-1' of version 1, which is under way: " in changed.output
    assert "the upcaster from version 1 failed: KeyError: 'weight'" in raises.output
    assert "4111" not in changed.output + raises.output


def test_check_reads_instances_of_each_version_however_many_others_have_changed_since(
    pillarbox: Shell, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pillarbox.app.orchestrating.READ_AT_MOST", 1)
    put("old", Journal(), version=1)
    put("elsewhere", Journal(), saga="billing/fulfil", version=2)
    put("new", Journal(), version=2)
    program(monkeypatch, pillarbox.url, "pay", "ship", version=2, upcasters={1: lambda state: {**state["weight"]}})

    done = pillarbox("saga", "check", "todays", store=False)

    assert done.exit_code == 1
    assert "cannot read instance 'old' of version 1, which is under way" in done.output


def with_child(monkeypatch: pytest.MonkeyPatch, url: str, name: str) -> Pillarbox:
    """Return the box of a program whose saga has a child ``name``; another one stands beside it."""
    box = program(monkeypatch, url)
    fulfil, children = Saga("fulfil", state=Order), {one: Saga(one, state=Order) for one in ("deliver", "send")}
    for child in children.values():
        child.step(name="pack")(nothing)
        box.include(child)

    @fulfil.child(children[name])
    def hand_over(state: Order) -> Order:
        return state

    box.include(fulfil)
    return box


@pytest.mark.parametrize("is_noted", [True, False], ids=["as today", "before children were noted"])
def test_check_finds_that_a_step_has_another_child(
    pillarbox: Shell, put: Put, monkeypatch: pytest.MonkeyPatch, *, is_noted: bool
) -> None:
    graphs = Catalogue(with_child(monkeypatch, pillarbox.url, "deliver").saga_definitions()).graphs
    noted = {key: graph if is_noted else graph.replace(',"child":"deliver"', "") for key, graph in graphs.items()}
    pillarbox.run(lambda store: store.saga_archive.note_definitions(noted))
    put("o-1", Journal())

    same = pillarbox("saga", "check", "todays", store=False)
    with_child(monkeypatch, pillarbox.url, "send")
    other = pillarbox("saga", "check", "todays", store=False)

    assert same.exit_code == 0
    assert ("break: the steps of shop/fulfil version 1 have changed" in other.output) is is_noted


def test_roles_that_leave_nothing_to_run_are_refused(pillarbox: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, pillarbox.url)
    nothing_on = ("--no-relay", "--no-consumers", "--no-sagas")

    assert "there is nothing to run without relay" in pillarbox("run", "todays", *nothing_on, store=False).stderr
    assert "shop includes no saga" in pillarbox("run", "todays", "--sagas", store=False).stderr


def test_health_tells_of_sagas(pillarbox: Shell, put: Put) -> None:
    put("o-1")

    text = pillarbox.text("health")

    assert "degraded: 1 sagas need attention" in text
    assert pillarbox.json("health")["sagas_in_need"]["count"] == 1
    assert pillarbox("health", "--strict").exit_code == 1
