"""What all have acknowledged is removed from a server that forgets what is pending when one subject is purged."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from pillarbox.brokers.nats.api import FOUND_AT_ONCE, JetStream, Refusal

if TYPE_CHECKING:
    from pillarbox.brokers.nats.connection import NatsConnection

OLD = SimpleNamespace(client=SimpleNamespace(connected_server_version=SimpleNamespace(major=2, minor=9)))


class LeftBehind(JetStream):
    """An old server with many messages that nobody here has settled."""

    def __init__(self, count: int) -> None:
        super().__init__(cast("NatsConnection", self))
        self.there = list(range(1, count + 1))

    async def link(self) -> SimpleNamespace:
        return OLD

    async def tell(self, subject: str, payload: bytes) -> None:
        assert subject == "$JS.API.STREAM.MSG.DELETE.topic:order"
        self.there.remove(json.loads(payload)["seq"])

    async def ask(self, question: str, **what: Any) -> dict[str, Any]:
        if question.startswith("STREAM.MSG.DELETE"):
            self.there.remove(what["seq"])
            return {}
        found = next((one for one in self.there if one >= what["seq"]), None)
        if found is None:
            raise Refusal(404, "no message found")
        return {"message": {"seq": found, "time": "2031-05-17T08:00:00Z"}}


async def test_of_what_others_have_left_so_much_is_removed_at_once_as_a_lease_outlasts() -> None:
    """As where a consumer was removed that had lagged behind all others for a day."""
    stream = LeftBehind(FOUND_AT_ONCE + 3)
    ours = stream.there[-2:]

    await stream.remove("topic:order", "topic.order.0", up_to=ours[-1], known=ours)
    assert stream.there == [FOUND_AT_ONCE + 1]

    await stream.remove("topic:order", "topic.order.0", up_to=ours[-1], known=())
    assert stream.there == []
