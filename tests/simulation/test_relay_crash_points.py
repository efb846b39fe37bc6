"""A relay that ends, or whose database does not answer, before any statement, any commit, or after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete, insert

from pillarbox import Pillarbox, RelaySettings
from pillarbox.app.controlling import control_of
from pillarbox.channel import NotReady, Refused, SendResult, Unknown
from pillarbox.errors import StoreUnavailableError
from pillarbox.relational import metadata
from pillarbox.relay import RelayKind
from tests import effort
from tests.fault.relay_scene import RelayScene, StepwiseRelay
from tests.fault.story import POSTGRESQL_KINDS, SQLITE_KINDS, Entered, committed, ledger
from tests.history import check
from tests.simulation.fuse import Fuse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

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
