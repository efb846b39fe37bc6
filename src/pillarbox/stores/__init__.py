"""Stores: the databases that can hold outbox, inbox, holding and dead letters.

Guarantee: every store passes the same public contract suites.
Not promised: that settings which weaken durability are repaired; `doctor` names them.
Source: hexagonal architecture's adapters; one folder a database.
"""
