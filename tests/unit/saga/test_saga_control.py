"""What operators decide about sagas: what is refused, what is changed, and what is kept of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import make_url

from pillarbox.app.controlling import control_of
from pillarbox.errors import ConfigurationError, ConflictError, DecodeError, NotFoundError
from pillarbox.relational import RelationalStore
from pillarbox.saga.control import SagaControl
from pillarbox.saga.journal import ActState, Journal, Progress, SagaStatus, decode_journal, encode_journal
from pillarbox.saga.starting import new_saga
from pillarbox.saga.store import ChangedSaga, SagaKey
from pillarbox.stores.sqlite import sqlite_store

SAGA = "shop/fulfil"
WHO: Mapping[str, Any] = {"by": "ann", "reason": "seen by hand"}
DONE = Progress(state=ActState.DONE, attempts=1, place=1)
FAILED = Progress(state=ActState.FAILED, attempts=5, place=2, error="e")
UNKNOWN = Progress(state=ActState.UNKNOWN, attempts=5, place=2, error="e")
WAITING = Progress(state=ActState.RETRY, attempts=2, due_us=2**60, error="e")
SENT = Progress(state=ActState.SENT, attempts=1, due_us=2**60)
CALLED = Progress(state=ActState.INTENT, attempts=1, due_us=2**60, token="t")

RUNNING = Journal(do={"pay": DONE, "ship": SENT})
RETRYING = Journal(do={"pay": DONE, "ship": WAITING})
CANCELLED = Journal(do={"pay": DONE, "ship": WAITING}, stopping="why")
FORCED = Journal(do={"pay": DONE, "ship": SENT}, stopping="why", forced=True, beyond=True)
BEYOND = Journal(do={"pay": DONE, "ship": WAITING}, beyond=True)
UNDOING = Journal(do={"pay": DONE, "ship": FAILED}, undo={"pay": WAITING}, status=SagaStatus.COMPENSATING)
TURNING = Journal(do={"pay": DONE, "ship": UNKNOWN}, undo={"ship": CALLED}, status=SagaStatus.COMPENSATING)
STUCK_BEYOND = Journal(do={"pay": DONE, "ship": FAILED}, beyond=True, status=SagaStatus.NEEDS_ATTENTION)
STUCK_UNDOING = Journal(do={"pay": DONE, "ship": FAILED}, undo={"pay": FAILED}, status=SagaStatus.NEEDS_ATTENTION)
COMPLETED = Journal(do={"pay": DONE, "ship": DONE}, status=SagaStatus.COMPLETED)
COMPENSATED = Journal(do={"pay": DONE, "ship": FAILED}, undo={"pay": DONE}, status=SagaStatus.COMPENSATED)


@dataclass
class Desk:
    """An operator's desk over a store in memory."""

    store: RelationalStore
    control: SagaControl

    async def put(self, journal: Journal, saga_id: str = "o-1", *, saga: str = SAGA) -> None:
        """Put a saga there that is not due."""
        key = SagaKey(saga, saga_id)
        new = new_saga(key, service="shop", version=1, state="{}", content_type="application/json")
        await self.store.run(self.store.sagas.start([new]))
        changed = ChangedSaga(
            key=key,
            version=1,
            status=journal.status,
            steps="",
            state="{}",
            journal=encode_journal(journal).decode(),
            due_us=None,
        )
        await self.store.run(self.store.sagas.save([changed]))

    async def journal(self) -> Journal:
        """What stands there now."""
        return decode_journal((await self.control.get("o-1")).journal)

    async def decide(self, verb: str, step: str | None = None) -> None:
        """Decide as ``verb`` says."""
        more = {} if step is None else {"step": step}
        await getattr(self.control, verb)("o-1", **more, **WHO)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    store = sqlite_store(make_url("sqlite://"))
    await store.migrate()
    yield Desk(store, control_of(store).sagas)
    await store.close()


@pytest.mark.parametrize(
    ("journal", "verb", "step", "why"),
    [
        (COMPLETED, "retry", None, "it has ended, completed"),
        (COMPENSATED, "retry", None, "it has ended, compensated"),
        (RUNNING, "retry", None, "it is running, and nothing of it waits for another attempt"),
        (TURNING, "retry", None, "it is compensating, and nothing"),
        (COMPLETED, "skip", "ship", "it has ended, completed"),
        (RUNNING, "skip", "pay", "step 'pay' has not failed"),
        (RUNNING, "skip", "ship", "step 'ship' has not failed"),
        (RUNNING, "skip", "pack", "step 'pack' has not failed"),
        (CANCELLED, "skip", "ship", "it is being undone"),
        (UNDOING, "skip", "ship", "it is being undone"),
        (TURNING, "skip", "ship", "it is being undone"),
        (STUCK_UNDOING, "skip", "ship", "retry or skip the undoing that failed"),
        (UNDOING, "compensate", None, "it is compensating already"),
        (COMPENSATED, "compensate", None, "it is compensated already"),
        (STUCK_UNDOING, "compensate", None, "undoing 'pay' has failed; retry or skip that"),
        (FORCED, "compensate", None, "it is to be undone already"),
        (UNDOING, "cancel", None, "it is compensating already"),
        (CANCELLED, "cancel", None, "it is to be undone already"),
        (FORCED, "cancel", None, "it is to be undone already"),
        (BEYOND, "cancel", None, "it is past its pivot"),
        (STUCK_BEYOND, "cancel", None, "it is past its pivot"),
        (COMPLETED, "cancel", None, "it is completed, and only a running saga is cancelled"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_changes_nothing(
    desk: Desk, journal: Journal, verb: str, step: str | None, why: str
) -> None:
    await desk.put(journal)

    with pytest.raises(ConflictError, match=why):
        await desk.decide(verb, step)

    assert await desk.journal() == journal
    assert (await desk.control.get("o-1")).summary.due_at is None
    assert await desk.control.acts("o-1") == ()


@pytest.mark.parametrize(
    ("journal", "verb", "step", "status"),
    [
        (RETRYING, "retry", None, "running"),
        (UNDOING, "retry", None, "compensating"),
        (STUCK_BEYOND, "retry", None, "running"),
        (STUCK_UNDOING, "retry", None, "compensating"),
        (RETRYING, "skip", "ship", "running"),
        (STUCK_BEYOND, "skip", "ship", "running"),
        (UNDOING, "skip", "pay", "compensating"),
        (STUCK_UNDOING, "skip", "pay", "compensating"),
        (RUNNING, "compensate", None, "running"),
        (BEYOND, "compensate", None, "running"),
        (STUCK_BEYOND, "compensate", None, "compensating"),
        (COMPLETED, "compensate", None, "compensating"),
        (RUNNING, "cancel", None, "running"),
    ],
)
async def test_a_decision_makes_the_saga_due_and_is_kept_with_who_and_why(
    desk: Desk, journal: Journal, verb: str, step: str | None, status: str
) -> None:
    await desk.put(journal)

    await desk.decide(verb, step)

    details = await desk.control.get("o-1")
    assert details.summary.status == status
    assert details.summary.due_at is not None
    (act,) = await desk.control.acts("o-1", saga="fulfil")
    assert (act.act.what, act.act.by, act.act.reason) == (verb, "ann", "seen by hand")
    assert act.act.details == ({} if step is None else {"step": step})
    assert (await desk.journal()).history[-1].error == "seen by hand"


async def test_a_skipped_step_counts_as_done_and_a_retried_one_begins_anew(desk: Desk) -> None:
    await desk.put(STUCK_BEYOND)
    await desk.put(STUCK_BEYOND, "o-2")

    await desk.control.skip("o-1", step="ship", **WHO)
    await desk.control.retry("o-2", **WHO)

    assert (await desk.journal()).do["ship"].state is ActState.SKIPPED
    again = decode_journal((await desk.control.get("o-2")).journal).do["ship"]
    assert (again.state, again.attempts) == (ActState.RETRY, 0)


async def test_every_act_is_told_of_however_many_there_were(desk: Desk) -> None:
    await desk.put(RETRYING)
    reasons = [f"for the {number}th time" for number in range(130)]

    for reason in reasons:
        await desk.control.retry("o-1", by="ann", reason=reason)

    assert [one.act.reason for one in await desk.control.acts("o-1")] == reasons


async def test_who_and_why_must_be_said(desk: Desk) -> None:
    await desk.put(RETRYING)

    with pytest.raises(ValueError, match="by="):
        await desk.control.retry("o-1", by=" ", reason="why")
    with pytest.raises(ValueError, match="reason="):
        await desk.control.cancel("o-1", by="ann", reason="")

    assert await desk.journal() == RETRYING


async def test_a_saga_that_is_not_there_is_not_found(desk: Desk) -> None:
    await desk.put(RETRYING)

    for verb in ("retry", "compensate", "cancel"):
        with pytest.raises(NotFoundError, match="gone"):
            await getattr(desk.control, verb)("gone", **WHO)
    with pytest.raises(NotFoundError):
        await desk.control.skip("o-1", step="ship", saga="other", **WHO)
    with pytest.raises(NotFoundError):
        await desk.control.acts("gone")


async def test_an_id_that_several_sagas_bear_needs_the_definition(desk: Desk) -> None:
    await desk.put(RETRYING)
    await desk.put(RUNNING, saga="shop/return")

    with pytest.raises(ConfigurationError, match="several sagas bear the id 'o-1'; name one of shop/fulfil, shop/ret"):
        await desk.control.retry("o-1", **WHO)
    await desk.control.retry("o-1", saga="fulfil", **WHO)

    assert len(await desk.control.acts("o-1", saga=SAGA)) == 1
    assert await desk.control.acts("o-1", saga="shop/return") == ()


async def test_a_status_that_does_not_exist_names_those_that_do(desk: Desk) -> None:
    with pytest.raises(ConfigurationError, match="no saga has the status 'lost'; there are running, compensating"):
        await desk.control.list(status="lost")

    assert await desk.control.list(status="running", older_than=timedelta(0)) == ()


async def test_an_act_is_kept_for_an_id_of_any_length(desk: Desk) -> None:
    saga, long = f"shop/{'f' * 150}", "ü" * 256
    await desk.put(RETRYING, long, saga=saga)

    await desk.control.retry(long, **WHO)

    (act,) = await desk.control.acts(long)
    assert len(act.act.subject) < 512


async def test_a_saga_that_cannot_be_read_is_left_as_it_is_and_said_to_be_one(desk: Desk) -> None:
    await desk.put(RETRYING)
    newer = ChangedSaga(
        key=SagaKey(SAGA, "o-1"), version=1, status=SagaStatus.RUNNING, steps="", state="{}", journal="[]", due_us=None
    )
    await desk.store.run(desk.store.sagas.save([newer]))

    with pytest.raises(DecodeError, match=r"the journal of the saga cannot be read: .* look with the release"):
        await desk.decide("retry")

    assert (await desk.control.get("o-1")).journal == "[]"
