"""A relay that ends, or whose database does not answer, before any statement, any commit, or after it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete, insert

from pillarbox import Pillarbox, RelaySettings
from pillarbox.app.controlling import control_of
from pillarbox.channel import NotReady, Refused, SendResult, Unknown
from pillarbox.errors import LeaseLostError, StoreUnavailableError
from pillarbox.relational import metadata
from pillarbox.relay import RelayKind
from tests import effort
from tests.fault.relay_scene import STEP, RelayScene, ScriptedSender, StepwiseRelay
from tests.fault.story import POSTGRESQL_KINDS, SQLITE_KINDS, Entered, committed, ledger
from tests.history import check
from tests.simulation.fuse import Fuse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from pillarbox.message import Message
    from pillarbox.relational import RelationalStore

WINDOW = 6
ENTRIES = [Entered(f"account-{number % 3}", number // 3 + 1, f"entry-{number}") for number in range(9)]


class Crash(BaseException):  # nothing may catch it
    """The process ends here."""


ANSWERS: dict[str, SendResult] = {
    "entry-1": Refused("too large"),
    "entry-2": Unknown("the confirm was lost"),
    "entry-4": Refused("too large, too"),
    "entry-5": NotReady("nobody listens"),
}
"""What the broker says when an entry is sent for the first time."""


@pytest.mark.parametrize("end", ["crash", "no answer"])
@pytest.mark.parametrize(
    ("store", "kind", "stride"),
    [
        *(pytest.param("sqlite", kind, effort.of(8, 24), id=f"sqlite-{kind}") for kind in SQLITE_KINDS),
        *(pytest.param("psycopg", kind, effort.of(20, 50), id=f"postgresql-{kind}") for kind in POSTGRESQL_KINDS),
    ],
    indirect=["store"],
)
async def test_whatever_a_relay_was_doing_nothing_is_lost_or_overtaken(
    store: RelationalStore, kind: RelayKind, stride: int, end: str, rng: Random
) -> None:
    at, points = rng.randrange(stride), 0
    while await _live_until(store, kind, Fuse(at, _error(end))):
        at, points = at + stride, points + 1

    print(f"{points} points of {at}")
    assert at > 30


def _error(end: str) -> BaseException:
    return Crash() if end == "crash" else StoreUnavailableError(store="the database", reason="no answer")


async def _live_until(store: RelationalStore, kind: RelayKind, fuse: Fuse) -> bool:
    """Live until the fuse blows, and go on; return false when the life was over before."""
    await _empty(store)
    scene = RelayScene(Pillarbox("bank", store=store), kind, settings=RelaySettings(window=WINDOW))
    scene.box.register(Entered)
    await _enter(scene, ENTRIES)
    relay = scene.relay("first", step=fuse.step)
    for token, answer in ANSWERS.items():
        relay.sender.by_token[token].append(answer)
    try:
        try:
            await _live(scene, relay)
        except Crash:
            await relay.publication.close()
            await scene.expire_leases()
            await _live(scene, scene.relay("second"))
        check(await committed(store), scene.log).assert_sound(max_duplicates=WINDOW)
    except AssertionError as error:
        raise AssertionError(f"at step {fuse.at}, before {fuse.blown_before}: {error}\n{scene.tokens()}") from error
    finally:
        for one in scene.relays:
            await one.publication.close()
    return bool(fuse.blown_before)


async def _live(scene: RelayScene, relay: StepwiseRelay) -> None:
    """Publish everything; an operator has each parked record sent again, and its account goes on meanwhile."""

    async def decided() -> bool:
        outbox = control_of(scene.box.store).outbox
        for parked in await outbox.parked():
            account = parked.message.key or ""
            entered = sum(one.key == account for one in await committed(scene.box.store))
            await _enter(scene, [Entered(account, entered + 1, f"{account}-{entered + 1}")])
            await outbox.retry(parked.message.id)
        return await scene.is_drained()

    await relay.until(decided, what="the end of all that waited")


async def _enter(scene: RelayScene, entries: Sequence[Entered]) -> None:
    async with scene.box.transaction() as tx:
        rows = [{"token": one.token, "account": one.account, "seq": one.seq} for one in entries]
        await tx.execute(insert(ledger), rows)
        await scene.box.publish_all(entries, tx=tx)


async def _empty(store: RelationalStore) -> None:
    async with store.begin() as transaction:
        await transaction.connection.execute(delete(ledger))
        for table in reversed(metadata.sorted_tables):
            if table.name != "pillarbox_schema_version":
                await transaction.connection.execute(delete(table))


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize(("store", "kind"), [("sqlite", kind) for kind in SQLITE_KINDS], indirect=["store"])
async def test_in_the_smallest_windows_no_more_is_published_again_either(
    store: RelationalStore, kind: RelayKind, window: int
) -> None:
    settings = RelaySettings(window=window)
    at = 0
    while await _publish_until(RelayScene(Pillarbox("bank", store=store), kind, settings=settings), Fuse(at, Crash())):
        at += 1

    assert at > 10


async def _publish_until(scene: RelayScene, fuse: Fuse) -> bool:
    """Publish a few entries until the fuse blows, and go on; return false when all was published before."""
    await _empty(scene.box.store)
    scene.box.register(Entered)
    await _enter(scene, ENTRIES[:3])
    relay = scene.relay("first", step=fuse.step)
    try:
        await relay.until(scene.is_drained)
    except Crash:
        await relay.publication.close()
        await scene.expire_leases()
        await scene.relay("second").until(scene.is_drained)
    check(await committed(scene.box.store), scene.log).assert_sound(max_duplicates=scene.settings.window)
    return bool(fuse.blown_before)


@pytest.mark.parametrize(
    ("store", "kind"),
    [
        *(pytest.param("sqlite", kind, id=f"sqlite-{kind}") for kind in SQLITE_KINDS),
        *(pytest.param("asyncpg", kind, id=f"postgresql-{kind}") for kind in POSTGRESQL_KINDS),
    ],
    indirect=["store"],
)
async def test_a_relay_that_ends_after_a_slow_batch_settles_it(store: RelationalStore, kind: RelayKind) -> None:
    scene = RelayScene(Pillarbox("bank", store=store), kind)
    scene.box.register(Entered)
    await _enter(scene, ENTRIES[:3])
    relay = scene.relay("first")
    while not scene.sent():
        await relay.publish_without_settling()
    relay.clock.advance(scene.settings.lease * 0.9)  # the lease is not trusted any more, and has not ended

    relay.relay.stop()
    await relay.relay.run()
    await scene.relay("second").until(scene.is_drained)

    assert not scene.refused()
    check(await committed(store), scene.log).assert_sound(max_duplicates=0)
    for one in scene.relays:
        await one.publication.close()


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kind", SQLITE_KINDS)
async def test_what_is_refused_in_a_slow_batch_is_parked(
    store: RelationalStore, kind: RelayKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = RelayScene(Pillarbox("bank", store=store), kind)
    scene.box.register(Entered)
    await _enter(scene, ENTRIES[:3])
    relay = scene.relay("first")
    send = relay.sender.send

    async def send_slowly(messages: Sequence[Message]) -> Sequence[SendResult]:
        relay.clock.advance(scene.settings.lease * 0.9)
        return await send(messages)

    monkeypatch.setattr(ScriptedSender, "send", staticmethod(send_slowly))
    outbox = control_of(store).outbox
    for again in range(2):
        relay.sender.by_token["entry-0"] = [Refused("too large")]
        for _ in range(6):
            with suppress(LeaseLostError):  # the loop goes on after it
                await relay.step()
            relay.clock.advance(STEP)

        (parked,) = await outbox.parked()
        if not again:
            await outbox.retry(parked.message.id)
    await relay.publication.close()
