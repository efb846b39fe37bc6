"""A batch that no stream took, and what JetStream says when it is asked why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from pillarbox.brokers.nats.api import JetStream, Refusal
from pillarbox.brokers.nats.connection import Link
from pillarbox.brokers.nats.sender import NatsSender
from pillarbox.channel import NotReady, SendResult, Unavailable
from pillarbox.message import Message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pillarbox.brokers.nats.connection import NatsConnection


class NobodyListens:
    """A client of a server where no stream takes anything."""

    is_connected = True
    max_payload = 1 << 20
    _pending_data_size = 0

    def __init__(self) -> None:
        self._flush_queue = self
        self._take: Callable[[Any], Awaitable[None]] | None = None
        self.subject = ""
        self.headers: Mapping[str, str] = {"Status": "503"}
        self.data = b""

    def new_inbox(self) -> str:
        return "inbox"

    def empty(self) -> bool:
        return False

    async def subscribe(self, _subject: str, *, cb: Callable[[Any], Awaitable[None]]) -> NobodyListens:
        self._take = cb
        return self

    async def unsubscribe(self) -> None:
        self._take = None

    async def _send_command(self, command: bytes) -> None:
        assert self._take is not None
        self.subject = command.split()[2].decode()
        await self._take(self)


class OneLink:
    """A connection that stands."""

    def __init__(self) -> None:
        self._link = Link(NobodyListens())

    async def link(self) -> Link:
        return self._link


class Answering(JetStream):
    """JetStream with the same answers each time it is asked anything."""

    def __init__(self, *answers: Refusal | dict[str, Any]) -> None:
        super().__init__(cast("NatsConnection", OneLink()))
        self._answers = list(answers)

    async def ask(self, question: str, **what: Any) -> dict[str, Any]:
        answer = self._answers.pop(0)
        if isinstance(answer, Refusal):
            raise answer
        return answer


async def result_of_sending(destination: str, *answers: Refusal | dict[str, Any]) -> SendResult:
    message = Message(
        id="1",
        type="t",
        destination=destination,
        key=None,
        content_type="text/plain",
        headers={"source": "shop"},
        body=b"x",
    )
    sender = NatsSender(cast("NatsConnection", OneLink()), Answering(*answers), replicas=1)
    (result,) = await sender.send([message])
    return result


@pytest.mark.parametrize("destination", ["topic:order", "queue:order"])
async def test_a_jetstream_that_would_not_say_is_unavailable(destination: str) -> None:
    result = await result_of_sending(destination, Refusal(503, "JetStream system temporarily unavailable"))

    assert result == Unavailable("JetStream system temporarily unavailable")


async def test_a_queue_that_somebody_else_makes_meanwhile_for_other_subjects_is_not_ready() -> None:
    made_by_others = {"config": {"subjects": ["other"]}}

    result = await result_of_sending("queue:order", Refusal(404, "stream not found"), made_by_others)

    assert isinstance(result, NotReady)
    assert "does not take queue.order.*" in result.reason
