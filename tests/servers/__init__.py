"""Private servers for tests and benchmarks: free loopback ports, temporary folders, ended by pid.

Guarantee: when a server's ``close`` has returned, none of its processes runs and its folder is gone; what a killed run
left behind is cleared away by the next. Not promised: surviving a reboot, or use by two processes at once.
Reading order: server, postgresql, mariadb, redis, nats, kafka, rabbitmq, processes, packages. ``python -m
tests.servers`` starts all of them for a developer.
"""

from __future__ import annotations

from tests.servers.errors import ServerError, ServerMissingError, ServerStartError
from tests.servers.kafka import KafkaServer
from tests.servers.mariadb import MariaDbServer
from tests.servers.nats import NatsServer
from tests.servers.pgbouncer import PgBouncerServer
from tests.servers.postgresql import PostgresServer
from tests.servers.rabbitmq import RabbitMqServer
from tests.servers.redis import RedisServer
from tests.servers.server import Server

KNOWN: tuple[type[Server], ...] = (
    PostgresServer,
    MariaDbServer,
    RedisServer,
    NatsServer,
    KafkaServer,
    RabbitMqServer,
)

__all__ = [
    "KNOWN",
    "KafkaServer",
    "MariaDbServer",
    "NatsServer",
    "PgBouncerServer",
    "PostgresServer",
    "RabbitMqServer",
    "RedisServer",
    "Server",
    "ServerError",
    "ServerMissingError",
    "ServerStartError",
]
