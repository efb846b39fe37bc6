"""What a broker's adapter declares about itself; the contract suite checks each declaration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerCapabilities:
    """Facts about one broker, as its adapter uses it.

    Attributes:
        ordered_prefix: of a batch, what was stored of each key is a prefix: a failure stops what is behind it.
        key_affinity: at any time one receiver of a group gets the messages of a key, in the order they were sent.
        durable: a confirmed message survives the end of every process that used the broker.
        transactional: messages can be accepted inside the transaction that holds their effects.
        max_body_bytes: the largest body that is taken; ``None`` where only the database's own limit holds.
    """

    ordered_prefix: bool
    key_affinity: bool
    durable: bool
    transactional: bool
    max_body_bytes: int | None = None
