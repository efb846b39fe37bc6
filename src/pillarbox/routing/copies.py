"""The copies that a route forwards: the same body and key, an id of their own, and word of where they come from."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from pillarbox.errors import RoutingLoopError
from pillarbox.message import Message, derived_message_id
from pillarbox.message import headers as names
from pillarbox.routing.route import Decision

NOT_INHERITED = frozenset({names.SEQUENCE, names.SEQUENCE_EPOCH})
"""A number counts in the line of its own destination: in another one it would look like a gap."""
RETURN_ADDRESS = frozenset({names.REPLY_TO, names.REPLY_KEY, names.REPLY_TYPES, names.REPLY_TOKEN})
"""What a tapped copy does not bear: with the token alone it would look like an answer."""


def copies_of(message: Message, decision: Decision, *, by: str) -> Sequence[Message]:
    """Return the copies of ``message`` that the route ``by`` forwards.

    Each has an id that is drawn from the message's, the route and the destination: the same at every attempt, and
    another for each destination, so that a consumer that listens to two of them gets both.

    Raises:
        RoutingLoopError: the message has passed this route before.
        DecodeError: its hop count cannot be read.
    """
    passed = message.headers.get(names.ROUTED_BY, "")
    if by in passed.split():
        raise RoutingLoopError(router=by, path=passed)
    inherited = {name: value for name, value in message.headers.items() if name not in NOT_INHERITED}
    headers = {
        **inherited,
        names.CORRELATION_ID: message.correlation_id,
        names.CAUSATION_ID: message.id,
        names.HOP: str(message.hop + 1),
        names.ROUTED_BY: f"{passed} {by}".lstrip(),
    }
    tapped = {name: value for name, value in headers.items() if name not in RETURN_ADDRESS} | {names.TAPPED_BY: by}
    return [
        *(_copy(message, headers, destination, by) for destination in decision.destinations),
        *(_copy(message, tapped, destination, by) for destination in decision.tapped),
    ]


def _copy(message: Message, headers: dict[str, str], destination: str, by: str) -> Message:
    return replace(
        message, id=derived_message_id(message.id, by, destination), destination=destination, headers=headers
    )
