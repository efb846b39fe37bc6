"""What can be set about a log tailing relay."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from zlib import crc32

from pillarbox.errors import ConfigurationError
from pillarbox.errors.values import SOME_TIME, check_values

_SLOT_NAME = re.compile(r"[a-z0-9_]{1,63}")
_PUBLICATION_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_FOREIGN = re.compile(r"[^a-z0-9_]")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """Settings of a log tailing relay.

    Attributes:
        slot: the replication slot; left out, it is named after the database, since a cluster's databases share slots.
        publication: the publication of the outbox's inserts.
        failover: on PostgreSQL 17 and later, make a slot that standbys keep in step, so that it outlives a failover.
        idle_every: how often the place in the log is written down while nothing is published.
    """

    slot: str | None = None
    publication: str = "pillarbox_outbox"
    failover: bool = True
    idle_every: timedelta = timedelta(seconds=10)

    def __post_init__(self) -> None:
        """Refuse names that the database would refuse, or fold into others."""
        check_values(self, idle_every=SOME_TIME)
        if self.slot is not None and not _SLOT_NAME.fullmatch(self.slot):
            raise ConfigurationError(
                f"a replication slot's name has up to 63 of a-z, 0-9 and _, which {self.slot!r} has not"
            )
        if not _PUBLICATION_NAME.fullmatch(self.publication):
            raise ConfigurationError(
                f"a publication's name has up to 63 of a-z, 0-9 and _, no digit first; not so {self.publication!r}"
            )

    def slot_in(self, database: str) -> str:
        """Return the slot's name; databases whose names differ have slots whose names differ."""
        if self.slot is not None:
            return self.slot
        plain = _FOREIGN.sub("_", database.lower())
        name = f"pillarbox_{plain}"
        if plain == database and len(name) <= 63:
            return name
        return f"{name[:54]}_{crc32(database.encode()):08x}"
