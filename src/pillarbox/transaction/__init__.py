"""Transaction: the caller's open transaction, of either colour, as a runner of programs.

Guarantee: what a program writes commits or rolls back together with the caller's own writes.
Not promised: committing, rolling back or undoing a failed statement; those stay with whoever began the transaction.
Source: PoEAA, *Unit of Work*; read program, transaction, adopt, then sqlalchemy_ or compiled and the drivers.
"""

from __future__ import annotations

from pillarbox.transaction.adopt import adopt, adopt_sync, is_synchronous
from pillarbox.transaction.now import now_us
from pillarbox.transaction.program import Execute, Program, Row, Rows, drive, drive_sync, step
from pillarbox.transaction.source import OpenSyncTransaction, OpenTransaction, TransactionSource
from pillarbox.transaction.transaction import AsyncTx, SyncTransaction, SyncTx, Transaction

__all__ = [
    "AsyncTx",
    "Execute",
    "OpenSyncTransaction",
    "OpenTransaction",
    "Program",
    "Row",
    "Rows",
    "SyncTransaction",
    "SyncTx",
    "Transaction",
    "TransactionSource",
    "adopt",
    "adopt_sync",
    "drive",
    "drive_sync",
    "is_synchronous",
    "now_us",
    "step",
]
