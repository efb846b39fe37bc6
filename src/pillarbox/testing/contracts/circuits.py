"""The rules of a store of circuits."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from pillarbox.retry import Circuit, CircuitState
from pillarbox.testing.contracts.harness import LONG, StoreHarness
from pillarbox.testing.waiting import wait_until

GATEWAY, OTHER = "shop/gateway", "shop/other"
SHORT_WAIT = timedelta(milliseconds=20)


class CircuitStoreContract:
    """What every ``CircuitStore`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_what_nobody_has_changed_is_closed(self, harness: StoreHarness) -> None:
        """Also when somebody needs it."""
        assert await read(harness) == Circuit()

        await harness.source.run(harness.circuits.enlist("shop", {GATEWAY: ["shop/charge"]}))

        assert await read(harness) == Circuit()

    async def test_what_was_written_is_read(self, harness: StoreHarness) -> None:
        """Waits are counted down by the database's clock."""
        opened = Circuit().opened(LONG, reason="TimeoutError")

        assert await change(harness, opened, expected=0)

        circuit = await read(harness)
        assert (circuit.state, circuit.version, circuit.openings) == (CircuitState.OPEN, 1, 1)
        assert circuit.reason == "TimeoutError"
        assert LONG - timedelta(minutes=1) < circuit.wait <= LONG
        assert timedelta(0) <= circuit.away_for < timedelta(minutes=1)

    async def test_how_long_it_is_away_is_counted_over_changes(self, harness: StoreHarness) -> None:
        """From when it was opened first."""
        opened = Circuit(away_for=LONG).opened(LONG, reason="x")
        await change(harness, opened, expected=0)

        await change(harness, (await read(harness)).probed("me", lease=LONG), expected=1)

        circuit = await read(harness)
        assert (circuit.state, circuit.probe) == (CircuitState.HALF_OPEN, "me")
        assert circuit.away_for >= LONG

    async def test_a_wait_that_is_over_is_zero(self, harness: StoreHarness) -> None:
        """And the probe may be taken then."""
        await change(harness, Circuit().opened(SHORT_WAIT, reason="x"), expected=0)

        async def is_over() -> bool:
            return (await read(harness)).may_be_probed

        await wait_until(is_over)

    async def test_only_the_expected_version_is_replaced(self, harness: StoreHarness) -> None:
        """Whoever comes late changes nothing."""
        opened = Circuit().opened(LONG, reason="x")
        assert await change(harness, opened, expected=0)

        assert not await change(harness, opened, expected=0)
        assert not await change(harness, opened.closed(), expected=2)
        assert await change(harness, opened.closed(), expected=1)
        assert await read(harness) == Circuit(version=2)

    async def test_of_several_who_take_the_probe_at_once_one_has_it(self, harness: StoreHarness) -> None:
        """Compare and set."""
        opened = Circuit().opened(timedelta(0), reason="x")
        await change(harness, opened, expected=0)

        taken: list[bool] = []

        async def take(token: str) -> None:
            taken.append(await change(harness, opened.probed(token, lease=LONG), expected=opened.version))

        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(take(f"t{number}"))

        assert sorted(taken) == [False, False, False, True]

    async def test_dependencies_are_told_with_who_needs_them(self, harness: StoreHarness) -> None:
        """Those of a service that nobody needs any more are forgotten, those of others are not."""
        circuits, run = harness.circuits, harness.source.run
        await run(circuits.enlist("shop", {GATEWAY: ["shop/b", "shop/a"], OTHER: ["shop/c"]}))
        await run(circuits.enlist("stock", {"stock/gateway": ["stock/a"]}))
        await change(harness, Circuit().opened(LONG, reason="x"), expected=0)

        await run(circuits.enlist("shop", {GATEWAY: ["shop/a"]}))

        known = await run(circuits.known())
        assert [(one.dependency, one.needed_by) for one in known] == [
            (GATEWAY, ("shop/a",)),
            ("stock/gateway", ("stock/a",)),
        ]
        assert [one.circuit.is_closed for one in known] == [False, True]


async def read(harness: StoreHarness) -> Circuit:
    """Read the circuit of the gateway."""
    return await harness.source.run(harness.circuits.read(GATEWAY))


async def change(harness: StoreHarness, circuit: Circuit, *, expected: int) -> bool:
    """Change the circuit of the gateway."""
    return await harness.source.run(harness.circuits.change(GATEWAY, circuit, expected=expected))
