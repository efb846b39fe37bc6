"""PostgreSQL as the store, by psycopg 3 or asyncpg.

Guarantee: what is committed here is published; several processes share the work.
Not promised: survival of commits that an asynchronous standby had not received at a failover.
Source: RELIABILITY of queue tables on PostgreSQL; the reading order is store.
"""

from pillarbox.stores.postgresql.store import postgresql_store

__all__ = ["postgresql_store"]
