"""The time that Redis has for its answers, against a server that answers as slowly as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from pillarbox.brokers.redis import connection as module
from pillarbox.brokers.redis.connection import RedisConnection
from pillarbox.errors import BrokerUnavailableError

WITHIN_S = 0.3
COMMANDS = 16

Rest = Callable[[int], float]
"""How long the server waits before its answer with that number, in seconds."""


@asynccontextmanager
async def slow_redis(rest: Rest) -> AsyncGenerator[str]:
    """Run a server that answers ``OK`` to everything, until the block ends; its URL is given."""
    ending = asyncio.Event()
    serving: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered = 0
        while line := await reader.readline():
            for _ in range(2 * int(line[1:])):  # a length and an argument each
                await reader.readline()
            with suppress(TimeoutError):
                async with asyncio.timeout(rest(answered)):
                    await ending.wait()
            answered += 1
            writer.write(b"+OK\r\n")
        writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        ending.set()
        await asyncio.gather(*serving)
        server.close()


@pytest.fixture(autouse=True)
def little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each two answers a fraction of a second."""
    monkeypatch.setattr(module, "ANSWER_WITHIN_S", WITHIN_S)
    monkeypatch.setattr(module, "ANSWERS_IN_TIME", 2)


@pytest.mark.parametrize("answered", [0, 5])
async def test_a_server_that_falls_silent_is_given_up(answered: int) -> None:
    """Also in the midst of its answers, and where it is silent from the first word of the client on."""
    async with slow_redis(lambda number: 3600 if number >= answered else 0) as url:
        redis = RedisConnection(url)
        with pytest.raises(BrokerUnavailableError):
            await redis.execute_all([("PING",)] * 100)
        await redis.close()


async def test_answers_that_keep_coming_are_waited_for() -> None:
    """All of them take longer than a few of them may."""
    async with slow_redis(lambda _: WITHIN_S / 8) as url:
        redis = RedisConnection(url)
        begun = asyncio.get_running_loop().time()
        answers = await redis.execute_all([("PING",)] * COMMANDS)
        assert answers == [b"OK"] * COMMANDS
        assert asyncio.get_running_loop().time() - begun > WITHIN_S
        await redis.close()
