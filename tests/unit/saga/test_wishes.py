"""A parent's wish that its child be undone: whose it is, and what a child does with it that stands in any way."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from pillarbox.errors import DecodeError
from pillarbox.saga.happening import Moment
from pillarbox.saga.journal import ActState, Direction, Journal, Parent, Progress, SagaStatus
from pillarbox.saga.replies import wished
from pillarbox.saga.starting import ChildEnded, UndoChild
from pillarbox.saga.token import Awaited, signed

NOW = Moment(now_us=1_000_000)
PAST_PIVOT = ChildEnded(status="completed", reason="it is past its pivot")


def token_of(direction: Direction, *, saga: str = "shop/fulfil", saga_id: str = "o-1", step: str = "deliver") -> str:
    return signed(Awaited(saga, saga_id, step, direction, 1), "secret of the parent")


def wish(*, forced: bool = False, token: str = token_of(Direction.UNDO)) -> UndoChild:
    return UndoChild(
        saga="shop/delivery", saga_id="o-1.fulfil.deliver", to="shop.replies", key="o-1", token=token, forced=forced
    )


def child(status: SagaStatus, *, beyond: bool = False) -> Journal:
    """Return the journal of a child that has packed, and perhaps sent off, which is its pivot."""
    done = Progress(state=ActState.DONE, attempts=1, place=1)
    parent = Parent(to="shop.replies", key="o-1", token=token_of(Direction.DO))
    return Journal(status=status, do={"pack": done}, places=1, beyond=beyond, parent=parent)


@pytest.mark.parametrize("status", [SagaStatus.COMPLETED, SagaStatus.NEEDS_ATTENTION])
def test_a_child_is_undone_whether_or_not_its_version_is_run_here(status: SagaStatus) -> None:
    journal, told = wished(child(status), wish(), NOW)

    assert told is None, "the parent is told when it is undone"
    assert journal.status is SagaStatus.COMPENSATING
    assert journal.parent == Parent(to="shop.replies", key="o-1", token=wish().token)


def test_a_child_that_runs_begins_no_further_step() -> None:
    journal, told = wished(child(SagaStatus.RUNNING), wish(), NOW)

    assert told is None
    assert (journal.status, journal.stopping) == (SagaStatus.RUNNING, "its parent is undone")


def test_a_child_that_is_undone_already_says_so() -> None:
    _, told = wished(child(SagaStatus.COMPENSATED), wish(), NOW)

    assert told == ChildEnded(status="compensated")


def test_a_child_that_has_completed_past_its_pivot_stays() -> None:
    journal, told = wished(child(SagaStatus.COMPLETED, beyond=True), wish(), NOW)

    assert told == PAST_PIVOT
    assert journal.status is SagaStatus.COMPLETED


def test_a_child_that_needs_attention_past_its_pivot_still_does_and_its_parent_waits_for_what_an_operator_says() -> (
    None
):
    journal, told = wished(child(SagaStatus.NEEDS_ATTENTION, beyond=True), wish(), NOW)

    assert told is None
    assert (journal.status, journal.stopping) == (SagaStatus.NEEDS_ATTENTION, "")
    assert [entry.what for entry in journal.history] == ["cancelled", "too late to cancel"]
    assert journal.parent is not None
    assert journal.parent.token == wish().token


@pytest.mark.parametrize("status", [SagaStatus.COMPLETED, SagaStatus.NEEDS_ATTENTION])
def test_an_operator_who_undoes_the_parent_has_its_child_undone_past_the_pivot(status: SagaStatus) -> None:
    journal, told = wished(child(status, beyond=True), wish(forced=True), NOW)

    assert told is None
    assert (journal.status, journal.forced) == (SagaStatus.COMPENSATING, True)


@pytest.mark.parametrize(
    "stranger",
    [
        token_of(Direction.UNDO, saga="shop/return"),
        token_of(Direction.UNDO, saga_id="o-2"),
        token_of(Direction.UNDO, step="deliver more"),
    ],
    ids=["of another definition", "of another id", "of another step"],
)
@pytest.mark.parametrize("has_parent", [True, False])
def test_who_is_not_the_parent_of_a_saga_does_not_have_it_undone(stranger: str, *, has_parent: bool) -> None:
    before = child(SagaStatus.COMPLETED)
    before = before if has_parent else replace(before, parent=None)

    journal, told = wished(before, wish(token=stranger), NOW)

    assert told == ChildEnded(status="completed", reason="it is no child of this saga, and stays as it is")
    assert journal == before


def test_a_wish_without_a_token_is_none() -> None:
    with pytest.raises(DecodeError, match="no token of a saga"):
        wished(child(SagaStatus.COMPLETED), wish(token="anything"), NOW)
