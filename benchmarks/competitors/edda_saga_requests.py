"""edda: a workflow of four activities that ask, each followed by a reply that the workflow waits for on a channel.

The participant is asked in memory, without a broker in between, which favours this peer; it replies as soon as the
workflow waits, since a reply that comes a moment earlier would not wake it. Workflows that have their reply are resumed
one after another, by the loop that edda has for it.
"""

from __future__ import annotations

import asyncio

import uvloop
from edda import EddaApp, WorkflowContext, activity, publish, receive, subscribe, workflow
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.competitors.edda_saga import count_completed, url_of
from benchmarks.measure import Stopwatch, task
from benchmarks.sagas import IDLE_S, STEPS, in_lanes, state_of

REPLIES = "replies"
asked: asyncio.Queue[str] = asyncio.Queue()


@activity
async def ask(ctx: WorkflowContext, order_id: str) -> None:
    """Ask the participant."""
    asked.put_nowait(ctx.instance_id)


@workflow
async def of_requests(ctx: WorkflowContext, order_id: str, total_cents: int) -> None:
    """Ask four times, waiting for each reply."""
    await subscribe(ctx, REPLIES, mode="direct")
    for _ in range(STEPS):
        await ask(ctx, order_id)
        await receive(ctx, REPLIES)


async def reply(app: EddaApp, instance: str) -> None:
    """Reply to a workflow."""
    channel = f"{REPLIES}:{instance}"
    while not await app.storage.get_channel_subscribers_waiting(channel):  # noqa: ASYNC110 - no bell
        await asyncio.sleep(IDLE_S)
    await publish(app.storage, channel, {}, target_instance_id=instance, worker_id="participant")


async def run_all(app: EddaApp, count: int, *, at_once: int) -> None:
    """Start sagas and reply to them until the last reply has been given."""
    replies, numbers = count * STEPS, iter(range(count))

    async def participate() -> None:
        nonlocal replies
        while replies:
            replies -= 1
            await reply(app, await asked.get())

    async def lane(lane: int) -> None:
        if lane >= at_once:
            await participate()
        for number in numbers:
            await of_requests.start(**state_of(number))

    await in_lanes(2 * at_once, lane)


async def main() -> None:
    """Run all sagas."""
    todo = task()
    url, at_once = url_of(todo), int(todo.options["at_once"])
    batch = int(todo.options["batch"])
    pool = {"pool_size": at_once, "pool_pre_ping": False}
    app = EddaApp("bench", url, notify_fallback_interval=1, max_workflows_per_batch=batch, **pool)
    await app.initialize()
    engine, stopwatch = create_async_engine(url), Stopwatch(todo)

    async def run(count: int) -> int:
        before = await count_completed(engine)
        await run_all(app, count, at_once=at_once)
        while await count_completed(engine) < before + count:  # noqa: ASYNC110 - the table does not ring
            await asyncio.sleep(IDLE_S)
        return count

    await run(1)  # alone: several first ones at once would all insert the workflow's definition
    stopwatch.start()
    stopwatch.report(await run(todo.count))
    await app.shutdown()
    await engine.dispose()


if __name__ == "__main__":
    uvloop.run(main())
