"""MariaDB and MySQL as the store, by asyncmy or aiomysql, and by PyMySQL for threads.

Guarantee: what is committed here is published; several processes share the work.
Not promised: relays that follow a cursor or a log; a Galera cluster with several writing nodes.
Source: RELIABILITY of queue tables on InnoDB; the reading order is store, idempotency, locks.
"""

from pillarbox.stores.mysql.store import mysql_store

__all__ = ["mysql_store"]
