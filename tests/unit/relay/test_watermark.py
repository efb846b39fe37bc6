"""A watermark passes what is confirmed or put aside, and nothing else; taken step by step on a store in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, select

from pillarbox import Pillarbox, RelaySettings
from pillarbox.app.controlling import control_of
from pillarbox.channel import NotReady, Refused, Unavailable, Unknown
from pillarbox.errors import LeaseLostError, StoreUnavailableError
from pillarbox.relational.tables import outbox, outbox_cursor, outbox_held
from pillarbox.relay import RelayKind
from tests.fault.relay_scene import RelayScene
from tests.fault.story import Entered, committed, ledger
from tests.history import check
from tests.simulation.stepped import COMMIT, COMMITTED

if TYPE_CHECKING:
    from tests.fault.relay_scene import StepwiseRelay

ENTRIES = [Entered(f"account-{number % 3}", number // 3 + 1, f"entry-{number:02}") for number in range(9)]
WINDOW = 9


async def enter(box: Pillarbox, entries: Sequence[Entered]) -> None:
    async with box.transaction() as tx:
        await tx.execute(insert(ledger), [{"token": it.token, "account": it.account, "seq": it.seq} for it in entries])
        await box.publish_all(entries, tx=tx)


async def fill(box: Pillarbox) -> None:
    await enter(box, ENTRIES)


@pytest.fixture
async def scene() -> AsyncIterator[RelayScene]:
    """Nine entries of three accounts, in turn."""
    scene = await RelayScene.filled(fill, kind=RelayKind.SEQUENCE)
    scene.settings = RelaySettings(window=WINDOW)
    yield scene
    await scene.close()


class Lightning:
    """Strikes once, before the first step whose text has ``word`` in it."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.has_struck = False
        self.armed = True

    async def step(self, what: str) -> None:
        if self.armed and not self.has_struck and self.word in what:
            self.has_struck = True
            raise StoreUnavailableError(store="SQLite", reason="no answer")


async def watermark(scene: RelayScene) -> int:
    """Return the position of the last record that the cursor has passed."""
    async with scene.box.store.engine.connect() as connection:
        return int((await connection.execute(select(outbox_cursor.c.position))).scalar_one())


async def positions(scene: RelayScene) -> list[int]:
    async with scene.box.store.engine.connect() as connection:
        return list((await connection.execute(select(outbox.c.position).order_by(outbox.c.position))).scalars())


async def held(scene: RelayScene) -> dict[int, str]:
    async with scene.box.store.engine.connect() as connection:
        rows = await connection.execute(select(outbox_held.c.position, outbox_held.c.state))
        return {row.position: row.state for row in rows}


async def steps(relay: StepwiseRelay, count: int) -> None:
    for _ in range(count):
        await relay.step()


async def sound(scene: RelayScene, *, duplicates: int = 0) -> None:
    check(await committed(scene.box.store), scene.log).assert_sound(max_duplicates=duplicates)


async def test_a_transient_failure_stops_the_watermark_and_what_is_confirmed_beyond_is_not_sent_again(
    scene: RelayScene,
) -> None:
    relay = scene.relay("one", answers=[Unknown("the confirm was lost")])
    first, *_ = await positions(scene)

    await steps(relay, 4)
    assert scene.tokens() == ["entry-01", "entry-02"]
    assert await watermark(scene) < first

    await relay.until(scene.is_drained)
    assert scene.tokens()[2] == "entry-00"
    await sound(scene)


async def test_what_is_published_and_not_settled_stays_within_the_window(scene: RelayScene) -> None:
    relay = scene.relay("one")
    relay.sender.by_token["entry-00"] = [Unknown("the confirm was lost")] * 4
    await enter(scene.box, [Entered(f"more-{number}", 1, f"more-{number}") for number in range(40)])

    for _ in range(60):
        await relay.step()
        scene.clock.advance(scene.settings.longest_poll)
        if not relay.sender.by_token["entry-00"]:
            break
        assert scene.sent() <= WINDOW - 1
    await relay.until(scene.is_drained)

    await sound(scene)


@pytest.mark.parametrize("word", ["UPDATE pillarbox_outbox_cursor", COMMIT + "; UPDATE pillarbox_outbox_cursor"])
async def test_a_settlement_that_fails_once_costs_no_more_than_what_it_would_have_settled(
    scene: RelayScene, word: str
) -> None:
    lightning = Lightning(word)
    relay = scene.relay("one", step=lightning.step)

    await relay.until(scene.is_drained)

    assert lightning.has_struck
    await sound(scene, duplicates=WINDOW)


async def test_a_settlement_whose_answer_is_lost_when_looking_aside_is_survived(scene: RelayScene) -> None:
    lightning = Lightning(COMMITTED)
    lightning.armed = False
    relay = scene.relay("one", step=lightning.step)
    await relay.keeper.keep()
    await relay.publication.advance()
    await relay.publication.advance()
    lightning.armed = True
    with pytest.raises(StoreUnavailableError):
        await relay.publication.advance_released()

    await relay.until(scene.is_drained)

    await sound(scene, duplicates=WINDOW)


async def test_published_records_whose_lease_is_lost_are_told_and_left_to_the_heir(scene: RelayScene) -> None:
    first, second = scene.relay("first"), scene.relay("second")
    await first.publish_without_settling()
    in_flight = scene.sent()
    await scene.expire_leases()
    await second.until(scene.is_drained)

    for _ in range(3):
        scene.clock.advance(scene.settings.lease)
        await first.step()
    await first.publication.close()

    assert scene.refused() == in_flight
    await sound(scene, duplicates=in_flight)


async def test_the_heir_of_a_dead_relay_begins_at_the_watermark(scene: RelayScene) -> None:
    first, second = scene.relay("first"), scene.relay("second")
    for _ in range(4):
        await first.publication.advance() if first.keeper.tokens else await first.keeper.keep()
    settled, sent = await watermark(scene), scene.sent()
    assert settled > 0

    await scene.expire_leases()
    await second.until(scene.is_drained)

    repeated = [token for token in scene.tokens()[sent:] if token in scene.tokens()[:sent]]
    assert repeated == [f"entry-{number:02}" for number in range(3, sent)]


async def test_a_refused_record_parks_and_holds_its_key_alone(scene: RelayScene) -> None:
    relay = scene.relay("one")
    relay.sender.by_token["entry-00"] = [Refused("too large")]
    first = (await positions(scene))[0]

    await relay.until_idle()

    assert scene.tokens() == [f"entry-{number:02}" for number in (1, 2, 4, 5, 7, 8)]
    assert await held(scene) == {first: "parked", first + 3: "held", first + 6: "held"}


@pytest.mark.parametrize("runs", [True, False], ids=["while the relay runs", "while none runs"])
@pytest.mark.parametrize("decision", ["retry", "skip"])
async def test_an_operators_decision_lets_the_key_go_on_in_order(
    scene: RelayScene, decision: str, *, runs: bool
) -> None:
    relay = scene.relay("one")
    relay.sender.by_token["entry-00"] = [Refused("too large")]
    await relay.until_idle()
    if not runs:
        await relay.publication.flush()
        await relay.keeper.leave()
        await relay.publication.close()
        relay = scene.relay("two")
    control = control_of(scene.box.store).outbox
    (parked,) = await control.parked()

    if decision == "retry":
        await control.retry(parked.message.id)
    else:
        await control.skip(parked.message.id, by="ops", reason="of no use")
    await enter(scene.box, [Entered("account-0", 4, "last")])
    await relay.until(scene.is_drained)

    mine = [event.seq for event in scene.log if event.key == "account-0"]
    assert mine == ([1, 2, 3, 4] if decision == "retry" else [2, 3, 4])


async def test_a_record_refused_again_holds_its_key_again(scene: RelayScene) -> None:
    relay = scene.relay("one")
    relay.sender.by_token["entry-03"] = [Refused("too large"), Refused("still too large")]
    await relay.until_idle()
    control = control_of(scene.box.store).outbox
    for _ in range(2):
        (parked,) = await control.parked()
        await control.retry(parked.message.id)
        for _ in range(5):
            await relay.step()
            scene.clock.advance(scene.settings.longest_poll)

    await relay.until(scene.is_drained)

    await sound(scene)


async def test_records_wait_aside_for_their_destination_and_heal_in_order(scene: RelayScene) -> None:
    relay = scene.relay("one")
    relay.sender.by_token["entry-01"] = [NotReady("nobody listens")] * 3
    await relay.until_idle()
    assert [event.key for event in scene.log].count("account-1") == 0
    await enter(scene.box, [Entered("account-1", 4, "last")])

    await relay.until(scene.is_drained)

    await sound(scene)


async def test_nothing_is_sent_once_the_lease_has_run_out(scene: RelayScene) -> None:
    relay = scene.relay("one", answers=[Unavailable("away")])
    await relay.publish_without_settling()
    sent = scene.sent()

    scene.clock.advance(scene.settings.lease)
    with pytest.raises(LeaseLostError):
        await relay.publication.advance()

    assert scene.sent() == sent
    await relay.until(scene.is_drained)
    await sound(scene, duplicates=sent)


async def test_nothing_is_read_when_the_lease_has_run_out_before_the_first_pass(scene: RelayScene) -> None:
    relay = scene.relay("one")
    await relay.keeper.keep()

    scene.clock.advance(scene.settings.lease)
    with pytest.raises(LeaseLostError):
        await relay.publication.advance()

    assert scene.sent() == 0
    await relay.until(scene.is_drained)
    await sound(scene)
