"""Many destinations that take nothing, each for itself, beside one that works: it is not starved of its messages."""

from __future__ import annotations

from dataclasses import make_dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select

from pillarbox import Pillarbox, RelaySettings, event
from pillarbox.app.controlling import control_of
from pillarbox.channel import NotReady, Refused, SendResult, Subscription, Unavailable, Unknown
from pillarbox.relational.tables import queue
from pillarbox.testing import VirtualClock
from tests.fault.relay_scene import STEP, RelayScene
from tests.fault.story import SERVICE, TOPIC, Entered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pillarbox.relational import RelationalStore
    from pillarbox.relay import Relay

SETTINGS = RelaySettings(window=18)
STUCK = 10_000
"""As many failures as a test can see."""
A_CYCLE = 1_000
"""Steps in which each destination that fails is found out, and tried again."""
TWO_TO_A_LOOK_ASIDE = timedelta(milliseconds=60)
"""After so long a step comes, where a relay looks aside after 100 ms: at every second one."""
SOON = 40
"""Steps that a message may wait for others' trouble: two seconds."""

only_sqlite = pytest.mark.parametrize("store", ["sqlite"], indirect=True)


@pytest.fixture
def scene(store: RelationalStore) -> RelayScene:
    """An outbox and a polling relay, whose clock is the test's."""
    scene = RelayScene(Pillarbox("bank", store=store), settings=SETTINGS)
    scene.box.register(Entered)
    return scene


@only_sqlite
@pytest.mark.parametrize("failure", [Unavailable("no leader"), Unknown("no confirm")], ids=["unavailable", "unknown"])
async def test_whatever_the_number_of_destinations_that_fail_alone_others_do_not_wait_for_them(
    scene: RelayScene, failure: SendResult
) -> None:
    relay = scene.relay("one", dice=0.5)
    for token in await _publish_to_others(scene.box, topics=10, each=1):
        relay.sender.by_token[token] = [failure] * STUCK
    await _enter(scene.box, 1)
    await _pass_time(relay.step, relay.clock, A_CYCLE)

    assert scene.tokens() == ["entry-1"]
    for number in range(2, 8):
        await _enter(scene.box, number)
        await _pass_time(relay.step, relay.clock, SOON)
        assert scene.tokens()[-1] == f"entry-{number}"


@only_sqlite
async def test_topics_that_nobody_listens_to_do_not_keep_a_relay_from_others(scene: RelayScene) -> None:
    relay = scene.relay("one", dice=0.5)
    for token in await _publish_to_others(scene.box, topics=100, each=SETTINGS.batch):
        relay.sender.by_token[token] = [NotReady("nobody")] * STUCK
    await _enter(scene.box, 1)
    await _pass_time(relay.step, relay.clock, A_CYCLE)

    assert scene.tokens() == ["entry-1"]


@only_sqlite
async def test_topics_that_nobody_listens_to_do_not_keep_a_database_from_moving_others(store: RelationalStore) -> None:
    box = Pillarbox(SERVICE, store=store, broker="database://")
    box.register(Entered)
    clock = VirtualClock()
    relay: Relay = replace(box._parts(), relay=SETTINGS, clock=clock, dice=lambda: 0.5).relay_worker()
    await store.run(store.queue.subscribe(Subscription(consumer=f"{SERVICE}/post", channels=(TOPIC,))))
    await _publish_to_others(box, topics=100, each=SETTINGS.batch)
    await _enter(box, 1)

    await _pass_time(relay._pass, clock, A_CYCLE)

    async with store.engine.connect() as connection:
        assert (await connection.execute(select(func.count()).select_from(queue))).scalar_one() == 1


@only_sqlite
@pytest.mark.parametrize("reads_before", [SOON, SOON + 1, SOON + 2])
async def test_what_an_operator_released_leaves_once_somebody_hears_its_destination(
    scene: RelayScene, reads_before: int
) -> None:
    """However the reads of what was released fall among those of the outbox."""
    relay = scene.relay("one", dice=0.5)
    (token,) = await _publish_to_others(scene.box, topics=1, each=1)
    relay.sender.by_token[token] = [Refused("too large")]
    await _pass_time(relay.step, relay.clock, reads_before)
    outbox = control_of(scene.box.store).outbox
    (found,) = await outbox.parked()

    relay.sender.by_token[token] = [NotReady("nobody")]
    await outbox.retry(found.message.id)
    await _pass_time(relay.step, relay.clock, A_CYCLE, step=TWO_TO_A_LOOK_ASIDE)

    assert scene.tokens() == [token]


async def _publish_to_others(box: Pillarbox, *, topics: int, each: int) -> Sequence[str]:
    """Publish ``each`` records to so many topics, one topic after the other; return their tokens."""
    columns = [("account", str), ("seq", int), ("token", str)]
    records: list[Any] = []
    for topic in range(topics):
        made: Any = event(f"audit{topic}.entered", key="account")(make_dataclass("Audited", columns, frozen=True))
        box.register(made)
        records += [made(f"account-{one}", 1, f"stuck-{topic}-{one}") for one in range(each)]
    async with box.transaction() as tx:
        await box.publish_all(records, tx=tx)
    return [record.token for record in records]


async def _enter(box: Pillarbox, number: int) -> None:
    async with box.transaction() as tx:
        await box.publish(Entered("account-0", number, f"entry-{number}"), tx=tx)


async def _pass_time(
    turn: Callable[[], Awaitable[bool]], clock: VirtualClock, steps: int, *, step: timedelta = STEP
) -> None:
    for _ in range(steps):
        await turn()
        clock.advance(step)
