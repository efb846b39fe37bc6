"""A broker that is away: one probe at a time, ever longer pauses, no attempt burnt, no producer that waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert

from pillarbox import Pillarbox, RelaySettings, event
from pillarbox.app.controlling import control_of
from pillarbox.channel import Refused, SendResult, Unavailable, Unknown
from pillarbox.observe import BrokerAway, RecordParked
from pillarbox.relay import RelayKind
from tests.fault.relay_scene import STEP, RelayScene
from tests.fault.story import POSTGRESQL_KINDS, SQLITE_KINDS, Entered, committed, ledger
from tests.history import check

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pillarbox.relational import RelationalStore


@event("audit.entered", key="account")
@dataclass(frozen=True)
class Audited:
    """An entry that goes to another topic."""

    account: str
    seq: int
    token: str


ENTRIES = [Entered(f"account-{number % 3}", number // 3 + 1, f"entry-{number:02}") for number in range(12)]
LATER = [Entered(f"account-{number % 3}", number // 3 + 5, f"later-{number:02}") for number in range(12)]
AWAY = 240
"""Steps for which the broker is away: twelve seconds of the relay's clock."""


@pytest.fixture
async def scene(store: RelationalStore, kind: RelayKind) -> AsyncIterator[RelayScene]:
    """An outbox with entries and a relay of ``kind``, whose clock is the test's."""
    scene = RelayScene(Pillarbox("bank", store=store), kind, settings=RelaySettings(window=18))
    scene.box.register(Entered)
    yield scene
    for one in scene.relays:
        await one.publication.close()


async def enter(scene: RelayScene, entries: Sequence[Entered]) -> None:
    async with scene.box.transaction() as tx:
        await tx.execute(insert(ledger), [{"token": it.token, "account": it.account, "seq": it.seq} for it in entries])
        await scene.box.publish_all(entries, tx=tx)


every_kind = pytest.mark.parametrize(
    ("store", "kind"),
    [
        *(pytest.param("sqlite", kind, id=f"sqlite-{kind}") for kind in SQLITE_KINDS),
        *(pytest.param("asyncpg", kind, id=f"postgresql-{kind}") for kind in POSTGRESQL_KINDS),
    ],
    indirect=["store"],
)


@every_kind
@pytest.mark.parametrize("failure", [Unavailable("refused"), Unknown("no confirm")], ids=["unavailable", "unknown"])
async def test_while_the_broker_is_away_one_probe_goes_out_after_ever_longer_pauses(
    scene: RelayScene, failure: SendResult
) -> None:
    relay = scene.relay("one", dice=0.5)
    await enter(scene, ENTRIES[:3])
    await relay.until(scene.is_drained)
    relay.sender.down = failure
    relay.sender.calls.clear()

    await enter(scene, ENTRIES[3:])
    await _pass_time(relay, AWAY)
    await enter(scene, LATER)  # producers do not notice
    await _pass_time(relay, AWAY)

    pauses = [told.retry_after.total_seconds() for told in scene.notices.told if isinstance(told, BrokerAway)]
    probes = relay.sender.calls[1:]
    assert pauses == [pytest.approx(min(0.075 * 2**number, 3.75)) for number in range(len(pauses))]
    assert {tuple(call) for call in probes} == {(ENTRIES[3].token,)}, "always the oldest, and nothing else"
    assert len(relay.sender.calls) == len(pauses) <= 13
    assert not scene.told(RecordParked)


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kind", [RelayKind.POLLING])
@pytest.mark.parametrize("failure", [Unavailable("no leader"), Unknown("no confirm")], ids=["unavailable", "unknown"])
async def test_a_destination_that_fails_alone_does_not_stop_the_others(scene: RelayScene, failure: SendResult) -> None:
    """Such as a topic whose partition has no leader, while the broker is there for all others."""
    scene.box.register(Audited)
    relay = scene.relay("one", dice=0.5)
    stuck = Audited("account-0", 1, "stuck")
    relay.sender.by_token["stuck"] = [failure] * AWAY
    async with scene.box.transaction() as tx:
        await scene.box.publish(stuck, tx=tx)
    await _pass_time(relay, 10)

    await enter(scene, ENTRIES)
    before = len(relay.sender.by_token["stuck"])
    while len(scene.tokens()) < len(ENTRIES):
        await _pass_time(relay, 1)
    tried = before - len(relay.sender.by_token["stuck"])

    assert tried <= 3, f"the others waited for {tried} tries of the one that fails"
    assert scene.tokens() == [entry.token for entry in ENTRIES]
    assert not scene.told(RecordParked)


@every_kind
async def test_when_the_broker_is_back_the_backlog_leaves_oldest_first(scene: RelayScene) -> None:
    relay = scene.relay("one")
    relay.sender.down = Unavailable("refused")
    await enter(scene, ENTRIES)
    await _pass_time(relay, AWAY)
    await enter(scene, LATER)
    assert scene.tokens() == []

    relay.sender.down = None
    await relay.until(scene.is_drained)

    assert scene.tokens() == [entry.token for entry in [*ENTRIES, *LATER]]
    check(await committed(scene.box.store), scene.log).assert_sound(max_duplicates=0)


@every_kind
async def test_what_an_operator_released_leaves_when_the_broker_is_back_though_nothing_else_waits(
    scene: RelayScene,
) -> None:
    relay = scene.relay("one", dice=0.5)
    parked, behind = ENTRIES[0], ENTRIES[3]
    relay.sender.by_token[parked.token] = [Refused("too large")]
    await enter(scene, [parked, behind])
    await _pass_time(relay, 10)
    outbox = control_of(scene.box.store).outbox
    (found,) = await outbox.parked()

    relay.sender.down = Unavailable("refused")
    await outbox.retry(found.message.id)
    await _pass_time(relay, AWAY)
    relay.sender.down = None
    await _pass_time(relay, AWAY)

    assert scene.tokens() == [parked.token, behind.token]


async def _pass_time(relay: object, steps: int) -> None:
    for _ in range(steps):
        await relay.step()  # type: ignore[attr-defined]
        relay.clock.advance(STEP)  # type: ignore[attr-defined]
