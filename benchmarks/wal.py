"""A backlog for those who read the log: as many transactions as there are rows, written by the database itself.

Needs nothing but the standard library.
"""

from __future__ import annotations

CREATE_PLAIN = (
    "CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
    " topic text NOT NULL, key text NOT NULL, headers text NOT NULL, payload text NOT NULL)"
)
"""An outbox for a peer that brings none."""
PLAIN_ROW = (
    "INSERT INTO outbox (topic, key, headers, payload) SELECT 'order', 'o-' || n % {keys}, '{headers}', '{body}'"
)


def each_committed(insert: str, count: int) -> str:
    """Return a statement that runs ``insert``, which may name the number ``n``, ``count`` times, committing each."""
    return f"""
        DO $do$ BEGIN
            SET LOCAL synchronous_commit = off;
            FOR n IN 1..{count} LOOP
                {insert};
                COMMIT;
            END LOOP;
        END $do$
    """
