"""The store's own database as the broker: no other server, and effects and acceptance in one transaction.

Guarantee: a published message stays until its consumer's transaction that accepts it commits.
Not promised: delivery to consumers that use another database.
Source: EIP, *Message Store*; the reading order is broker, receiver.
"""

from pillarbox.brokers.database.broker import DatabaseBroker

__all__ = ["DatabaseBroker"]
