"""Leases: slots of work that one process owns for a while, each with a fencing token.

Guarantee: a write that carries a token of an earlier tenancy changes nothing; tokens of a slot only grow.
Not promised: that two processes never *believe* that they own a slot; a paused owner finds out by its token.
Source: Gray & Cheriton, *Leases* (1989); the reading order is lease, store, keeper.
"""

from pillarbox.lease.keeper import LeaseKeeper
from pillarbox.lease.lease import LeaseTerms, Tenancy
from pillarbox.lease.renewal import first_of, repeated
from pillarbox.lease.store import LeaseStore

__all__ = ["LeaseKeeper", "LeaseStore", "LeaseTerms", "Tenancy", "first_of", "repeated"]
