"""Makes ids of any length fit into their columns."""

from __future__ import annotations

from hashlib import sha256

from pillarbox.message.headers import may_be_header_value
from pillarbox.message.limits import KEY_COLUMN_BYTES


def fitting(identity: str) -> str:
    """Return ``identity`` as it is stored: itself, or its digest if it is too long for a key column."""
    return identity if len(identity.encode(errors="surrogatepass")) <= KEY_COLUMN_BYTES else _digest(identity)


def fitting_header(identity: str) -> str:
    """Return ``identity`` as it travels and is stored: itself, or its digest if a header or a key column refuses it."""
    return fitting(identity) if may_be_header_value(identity) else _digest(identity)


def _digest(identity: str) -> str:
    return f"sha256:{sha256(identity.encode(errors='surrogatepass')).hexdigest()}"
