"""How large a message may be."""

from __future__ import annotations

from dataclasses import dataclass

from pillarbox.errors import ConfigurationError
from pillarbox.errors.values import FROM_ONE, check_values


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes checked before a message is written, so that no row is kept that a broker will not take.

    The defaults fit the smallest of the brokers' own defaults: Kafka takes about 1 MB a message with its headers.

    Attributes:
        max_body_bytes: The encoded payload.
        max_key_bytes: The key in UTF-8; the key columns are as wide.
        max_header_value_bytes: One header's value in UTF-8.
        max_headers_bytes: All names and values together, the library's own included.
        max_causes: The messages that one message names as those that come before it.

    Raises:
        ConfigurationError: A limit is below one, or a key is let grow beyond its column.
    """

    max_body_bytes: int = 1_000_000
    max_key_bytes: int = 512
    max_header_value_bytes: int = 4_096
    max_headers_bytes: int = 16_384
    max_causes: int = 32

    def __post_init__(self) -> None:
        """Refuse limits that would refuse every message, and keys wider than the key columns."""
        check_values(
            self,
            max_body_bytes=FROM_ONE,
            max_key_bytes=FROM_ONE,
            max_header_value_bytes=FROM_ONE,
            max_headers_bytes=FROM_ONE,
            max_causes=FROM_ONE,
        )
        if self.max_key_bytes > KEY_COLUMN_BYTES:
            msg = f"Limits.max_key_bytes may not exceed {KEY_COLUMN_BYTES}, the width of the key columns"
            raise ConfigurationError(msg)


KEY_COLUMN_BYTES = 512
