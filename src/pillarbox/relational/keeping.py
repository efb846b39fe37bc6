"""Published records are copied to the table where they are kept, before they leave the one that they waited in."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Executable, Table, bindparam, select

from pillarbox.relational.expressions import any_of, insert_into, now_us, position_list
from pillarbox.relational.rows import RECORD_COLUMNS, columns
from pillarbox.relational.tables import outbox, outbox_held, outbox_published


def _keep(table: Table, published_at: ColumnElement[Any]) -> Executable:
    """Return the statement that copies the records of ``table`` at ``positions``."""
    chosen = select(*columns(table, ("position", *RECORD_COLUMNS)), published_at).where(
        any_of(table.c.position, position_list("positions"))
    )
    kept = insert_into(outbox_published).from_select(["position", *RECORD_COLUMNS, "published_at"], chosen)
    return kept.on_conflict_do_nothing()


KEEP = _keep(outbox, now_us())  # primary keys
KEEP_HELD = _keep(outbox_held, now_us())  # primary keys
KEEP_NOTED = _keep(outbox, bindparam("noted_at", type_=BigInteger))  # primary keys
