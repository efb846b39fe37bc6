"""SQLite as the store: a file for one host, or memory for a first try and for tests.

Guarantee: with a file, what is committed survives a power cut (WAL, synchronous=FULL).
Not promised: several hosts; more than one writer at a time.
Source: sqlite.org, *Write-Ahead Logging* and *The Memdb VFS*; the reading order is store.
"""

from pillarbox.stores.sqlite.store import sqlite_store

__all__ = ["sqlite_store"]
