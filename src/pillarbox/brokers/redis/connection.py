"""The connection to Redis: commands in one round trip, errors as the library's.

Connecting and authenticating are redis-py's. Commands are packed by hiredis and sent by hand: redis-py's own packing,
in Python, would cost more than everything else that a relay does for a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import hiredis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from pillarbox.errors import BrokerUnavailableError
from pillarbox.errors.waiting import IS_IT_THERE

Argument: TypeAlias = str | bytes | int
Command: TypeAlias = Sequence[Argument]

_hiredis: Any = hiredis  # its types know commands of one word only
_pack = _hiredis.pack_command
NAME = "redis"
_WHO = "give the user and password that it knows in broker=redis://USER:PASSWORD@…"
_REMEDIES: Sequence[tuple[type[RedisError], str]] = (
    (AuthenticationError, _WHO),
    (AuthenticationWrongNumberOfArgsError, _WHO),
    (NoPermissionError, "allow its user what it was refused, by ACL SETUSER"),
    (ReadOnlyError, "it is a replica: name its master in broker="),
    (ResponseError, "it was reached, and refuses: mend what it says"),
)
ANSWER_WITHIN_S = 5.0
ANSWERS_IN_TIME = 50
"""So many answers at a time must come within that."""
BLOCK_AT_MOST_MS = 1000
"""Shorter than the time within which an answer must come, so that a quiet stream is not taken for a silent server."""


class RedisConnection:
    """A pool of connections that never tries by itself a second time: the caller decides."""

    def __init__(self, url: str) -> None:
        """Reach the server at ``url``; connects to nothing. What its options say of how answers are read is not heeded.

        Raises:
            ValueError: it is no such URL, or has an option that is none or has no such value.
        """
        client: Any = Redis  # its types know neither raw answers nor all options
        self._redis = client.from_url(url, socket_connect_timeout=ANSWER_WITHIN_S)
        self._pool = self._redis.connection_pool
        self._pool.connection_kwargs.update(
            protocol=2,
            decode_responses=False,
            socket_timeout=None,  # it would set a timer for each of many answers
            retry_on_timeout=False,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            self._pool.make_connection()  # redis-py looks at most options only now
        except (TypeError, RedisError) as error:
            raise ValueError(str(error).rpartition("__init__() ")[2]) from error
        self._digests: dict[str, str] = {}

    async def execute(self, *command: Argument) -> Any:
        """Execute one command.

        Raises:
            BrokerUnavailableError: the server cannot be reached, gave no answer in time, or refused.
        """
        (answer,) = await self.execute_all([command])
        if is_refusal(answer):
            raise refused(answer) from answer
        return answer

    async def execute_all(self, commands: Sequence[Command]) -> Sequence[Any]:
        """Execute commands in one round trip; an answer may be the exception that Redis gave for that command.

        Raises:
            BrokerUnavailableError: the server cannot be reached or gave no answer in time; any of them may be done.
        """
        if not commands:
            return ()
        packed = b"".join([_pack(tuple(command)) for command in commands])
        with _translated():
            async with asyncio.timeout(ANSWER_WITHIN_S) as limit:
                connection = await self._pool.get_connection()
                try:
                    await connection.send_packed_command(packed, check_health=False)
                    answers = await _answers(connection, len(commands), limit)
                    if any(map(_is_read_only, answers)):  # somebody else may be the primary at its address by now
                        await connection.disconnect(nowait=True)
                    return answers
                except BaseException:
                    await connection.disconnect(nowait=True)  # answers may be on their way
                    raise
                finally:
                    await self._pool.release(connection)

    async def call(self, script: str, calls: Sequence[Command]) -> Sequence[Any]:
        """Call ``script`` once for each of ``calls``, which are the number of keys, the keys and the arguments.

        Raises:
            BrokerUnavailableError: as ``execute_all``.
        """
        if script not in self._digests:
            self._digests[script] = await self._load(script)
        commands = [("EVALSHA", self._digests[script], *call) for call in calls]
        answers = list(await self.execute_all(commands))
        if missing := [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]:
            await self._load(script)  # the server was restarted; what it did not know it did not run
            again = await self.execute_all([commands[place] for place in missing])
            for place, answer in zip(missing, again, strict=True):
                answers[place] = answer
        return answers

    async def close(self) -> None:
        """Close all connections; they are opened again when they are needed."""
        await self._redis.aclose()

    async def _load(self, script: str) -> str:
        digest = await self.execute("SCRIPT", "LOAD", script)
        return digest.decode() if isinstance(digest, bytes) else str(digest)


def is_refusal(answer: object) -> bool:
    """Tell whether the answer to one of many commands is that Redis would not do it."""
    return isinstance(answer, RedisError)


def refused(answer: Exception) -> BrokerUnavailableError:
    """Return what a refusal, or silence, of Redis means here."""
    reason = str(answer) or type(answer).__name__
    remedy = next((remedy for kind, remedy in _REMEDIES if isinstance(answer, kind)), IS_IT_THERE)
    return BrokerUnavailableError(broker=NAME, reason=reason, remedy=remedy)


def _is_read_only(answer: Any) -> bool:
    """Tell whether a command, or one in a script that returns how far it came and why, met a replica."""
    of_script: bytes | None = answer[1] if answer.__class__ is list and len(answer) == 2 else None
    is_said = isinstance(of_script, bytes) and of_script.startswith(b"READONLY")
    return is_said or isinstance(answer, ReadOnlyError)


@contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise refused(error) from error


async def _answers(connection: Any, count: int, limit: asyncio.Timeout) -> list[Any]:
    """Read ``count`` answers; as long as some come the limit is put off."""
    answers: list[Any] = []
    while len(answers) < count:
        answers.append(await _answer(connection))
        if len(answers) % ANSWERS_IN_TIME == 0:
            limit.reschedule(asyncio.get_running_loop().time() + ANSWER_WITHIN_S)
    return answers


async def _answer(connection: Any) -> Any:
    try:
        return await connection.read_response(disable_decoding=True)
    except ResponseError as refusal:
        return refusal
