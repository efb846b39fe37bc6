"""What the suites about holding share: small verbs on one consumer's holding."""

from __future__ import annotations

from datetime import timedelta

from pillarbox.errors import LeaseLostError
from pillarbox.holding import HeldMessage, HeldState, Hold, HoldingState, HoldState
from pillarbox.testing.contracts.harness import LONG, StoreHarness, make_message

CONSUMER = "shop/reserve-stock"
KEY = "k:o-1"


def held(
    identity: str,
    state: HeldState = HeldState.HELD,
    *,
    hold_key: str = KEY,
    attempts: int = 0,
    due_in: timedelta = timedelta(0),
) -> HeldMessage:
    """Return a message to be put aside."""
    return HeldMessage(hold_key=hold_key, message=make_message(identity), state=state, attempts=attempts, due_in=due_in)


async def hold(
    harness: StoreHarness, *keys: str, state: HoldState = HoldState.WAITING, due_in: timedelta = timedelta(0)
) -> None:
    """Hold keys in a committed transaction."""
    holds = [Hold(hold_key=key, state=state, due_in=due_in) for key in keys]
    await harness.source.run(harness.holding.hold(CONSUMER, holds))


async def join(harness: StoreHarness, *keys: str, due_in: timedelta = timedelta(0)) -> None:
    """Join holds, or create them, in a committed transaction."""
    holds = [Hold(hold_key=key, due_in=due_in) for key in keys]
    await harness.source.run(harness.holding.join(CONSUMER, holds))


async def put_aside(harness: StoreHarness, *messages: HeldMessage) -> None:
    """Put messages aside in a committed transaction."""
    await harness.source.run(harness.holding.append(CONSUMER, messages))


async def held_among(harness: StoreHarness, *keys: str) -> set[str]:
    """Ask which keys are held, in a transaction of its own."""
    return set(await harness.source.run(harness.holding.held_among(CONSUMER, keys)))


async def full_among(harness: StoreHarness, *keys: str, limit: int) -> set[str]:
    """Ask which keys are full, in a transaction of its own."""
    return set(await harness.source.run(harness.holding.full_among(CONSUMER, keys, limit=limit)))


async def holding_state(harness: StoreHarness) -> HoldingState:
    """Count what the consumer has put aside."""
    return await harness.source.run(harness.holding.state(CONSUMER))


async def lease(harness: StoreHarness, token: str, *, limit: int = 100, ttl: timedelta = LONG) -> int:
    """Lease what is due."""
    return await harness.source.run(harness.held_queue.lease_due(CONSUMER, token=token, limit=limit, ttl=ttl))


async def heads(harness: StoreHarness, token: str, *, per_key: int = 100) -> tuple[HeldMessage, ...]:
    """Read what is leased under ``token``."""
    return tuple(await harness.source.run(harness.held_queue.heads(CONSUMER, token=token, per_key=per_key)))


async def drain(harness: StoreHarness, token: str = "t") -> tuple[HeldMessage, ...]:
    """Lease everything that is due and read it."""
    await lease(harness, token)
    return await heads(harness, token)


async def remove(harness: StoreHarness, *ids: str) -> None:
    """Take messages out of holding."""
    await harness.source.run(harness.held_queue.remove(CONSUMER, ids))


async def finish(harness: StoreHarness, token: str = "t") -> int:
    """End what is empty under ``token``."""
    return await harness.source.run(harness.held_queue.finish(CONSUMER, token=token))


async def fence(harness: StoreHarness, token: str, *keys: str) -> None:
    """Fence holds, by default the usual one, in a transaction of its own."""
    await harness.source.run(harness.held_queue.fence(CONSUMER, keys or [KEY], token=token))


async def fence_lost(harness: StoreHarness, token: str) -> bool:
    """Tell whether the fence found that the lease is lost."""
    try:
        await fence(harness, token)
    except LeaseLostError:
        return True
    return False
