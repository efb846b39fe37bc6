"""Makes ids of any length fit into their columns."""

from __future__ import annotations

from hashlib import sha256

from pillarbox.message.limits import KEY_COLUMN_BYTES


def fitting(identity: str) -> str:
    """Return ``identity`` as it is stored: itself, or its digest if it is too long for a key column."""
    encoded = identity.encode()
    return identity if len(encoded) <= KEY_COLUMN_BYTES else f"sha256:{sha256(encoded).hexdigest()}"
