"""What the SQL stores share: tables, statements, migrations.

Guarantee: every statement is built once and reads no clock but the database's.
Not promised: a particular database; what differs between them is in `DatabaseTraits` and `expressions`.
Source: PoEAA, *Table Data Gateway*; the reading order is tables, expressions, store, then a pattern's statements.
"""

from pillarbox.relational.expressions import numbers
from pillarbox.relational.migrations import CURRENT_VERSION, MIGRATIONS
from pillarbox.relational.outbox import KeyLocks
from pillarbox.relational.store import RelationalStore
from pillarbox.relational.tables import metadata
from pillarbox.relational.traits import DatabaseTraits

__all__ = [
    "CURRENT_VERSION",
    "MIGRATIONS",
    "DatabaseTraits",
    "KeyLocks",
    "RelationalStore",
    "metadata",
    "numbers",
]
