"""The token that a command carries and its reply brings back: which act of which saga it answers.

It is signed with the saga's own secret, which never leaves the database: only who was given the command can answer it.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from hmac import compare_digest, digest

import msgspec
from msgspec.structs import astuple

from pillarbox.errors import DecodeError
from pillarbox.idempotency.fitting import fitting
from pillarbox.saga.journal import Direction
from pillarbox.saga.store import SagaKey


class Awaited(msgspec.Struct, frozen=True, array_like=True):
    """One attempt at one direction of one step of one saga.

    Attributes:
        round: how often the step was refused before, and tried again by an operator.
    """

    saga: str
    saga_id: str
    step: str
    direction: Direction
    attempt: int
    round: int = 0

    @property
    def key(self) -> SagaKey:
        """Which saga it belongs to."""
        return SagaKey(self.saga, self.saga_id)

    @property
    def request(self) -> str:
        """What names the step of the saga, in whichever direction, attempt and round."""
        return fitting(f"{self.saga}:{self.step}:{self.saga_id}")


class _Token(msgspec.Struct, frozen=True, array_like=True):
    act: Awaited
    signature: bytes


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Token).decode


def signed(act: Awaited, secret: str) -> str:
    """Return the token for ``act``."""
    return urlsafe_b64encode(_encode((_parts(act), _signature(act, secret)))).decode()


def read_token(token: str) -> tuple[Awaited, bytes]:
    """Return what ``token`` says, and its signature, which was not looked at.

    Raises:
        DecodeError: it is no token.
    """
    try:
        found = _decode(urlsafe_b64decode(token.encode()))
    except (ValueError, msgspec.MsgspecError) as error:
        raise DecodeError(reason=f"its header 'replytoken' is no token of a saga: {error}") from error
    return found.act, found.signature


def is_genuine(act: Awaited, signature: bytes, secret: str) -> bool:
    """Tell whether the saga with ``secret`` gave that token away."""
    return compare_digest(signature, _signature(act, secret))


def _signature(act: Awaited, secret: str) -> bytes:
    return digest(secret.encode(), _encode(_parts(act)), sha256)[:16]


def _parts(act: Awaited) -> tuple[object, ...]:
    """Return what is signed and sent: the first round is not named, so that older tokens stay genuine."""
    parts: tuple[object, ...] = astuple(act)
    return parts if act.round else parts[:-1]
