"""From what a program says about its store and broker to the adapters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TypeAlias

from sqlalchemy import Engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine

from pillarbox.brokers.database import DatabaseBroker
from pillarbox.brokers.memory import MemoryBroker
from pillarbox.brokers.partitions import PartitionLeases
from pillarbox.channel import Broker
from pillarbox.channel.wakeup import Wakeup
from pillarbox.clock import Clock
from pillarbox.errors import ConfigurationError, MissingExtraError
from pillarbox.errors.values import check_value
from pillarbox.outbox import OutboxStore
from pillarbox.relational import RelationalStore
from pillarbox.relay import RelayKind, RelaySettings
from pillarbox.serialization import NO_FOREIGN, ForeignMessages

StorePlace: TypeAlias = str | URL | AsyncEngine | Engine | RelationalStore
BrokerPlace: TypeAlias = str | Broker

STORE_VARIABLE, BROKER_VARIABLE = "PILLARBOX_STORE", "PILLARBOX_BROKER"
STORES = "memory://, sqlite:///FILE, postgresql+psycopg://…, postgresql+asyncpg://… or mariadb+asyncmy://…"
BROKERS = (
    "database:// (the store carries the messages), kafka://…, amqp://… (RabbitMQ), nats://…, redis://… or memory://"
)
REDIS = ("redis", "rediss", "unix")
NATS = ("nats", "tls", "ws", "wss")
RABBITMQ = ("amqp", "amqps")
KAFKA = "kafka"
OPEN_TO_OTHERS = (KAFKA, *RABBITMQ, *NATS)
"""Brokers whose messages other programs write, too."""


def store_at(place: StorePlace | None) -> RelationalStore:
    """Return the store at ``place``; connects to nothing.

    Raises:
        ConfigurationError: no store is named, or none of that kind exists.
    """
    from pillarbox.stores.mysql import mysql_store  # a store is imported when one is wanted
    from pillarbox.stores.postgresql import postgresql_store
    from pillarbox.stores.sqlite import sqlite_store

    if isinstance(place, RelationalStore):
        return place
    place = place if place is not None else os.environ.get(STORE_VARIABLE)
    if place is None:
        raise ConfigurationError(f"no store is named; give store=… or set {STORE_VARIABLE} ({STORES})")
    check_value(place, StorePlace, name="Pillarbox(store=)", shown=f"a {type(place).__name__}")
    url = _url(place) if isinstance(place, (str, URL)) else place.url
    kind = url.get_backend_name()
    if kind == "memory":
        return sqlite_store(URL.create("sqlite"))
    database = url if isinstance(place, (str, URL)) else place
    if kind == "sqlite":
        return sqlite_store(database)
    if kind == "postgresql":
        return postgresql_store(database)
    if kind in ("mysql", "mariadb"):
        return mysql_store(database)
    raise ConfigurationError(f"there is no store of the kind {kind!r}; there are {STORES}")


def broker_at(
    place: BrokerPlace | None,
    *,
    store: RelationalStore,
    relay: RelaySettings,
    clock: Clock,
    wakeup: Wakeup,
    foreign: Mapping[str, ForeignMessages] = NO_FOREIGN,
) -> Broker:
    """Return the broker at ``place``; connects to nothing.

    Raises:
        ConfigurationError: none of that kind exists.
        MissingExtraError: its client is not installed.
    """
    if place is not None and not isinstance(place, str):
        check_value(place, BrokerPlace, name="Pillarbox(broker=)", shown=f"a {type(place).__name__}")
        return place
    place = place if place is not None else os.environ.get(BROKER_VARIABLE, "database://")
    kind = place.partition(":")[0]
    if foreign and kind not in OPEN_TO_OTHERS:
        raise ConfigurationError(
            f"Settings(foreign=…) says how to read messages of others; a broker of the kind {kind!r} carries only ours"
        )
    if kind == "database":
        return DatabaseBroker(
            queue=store.queue, leases=store.leases, source=store, clock=clock, wakeup=wakeup, lease=relay.lease
        )
    if kind == "memory":
        return MemoryBroker(clock=clock)
    if kind in REDIS:
        _need("redis", "hiredis", extra="redis", needed_for="a Redis broker")
        from pillarbox.brokers.redis import redis_broker

        return redis_broker(place, leases=_leases(store, relay, clock))
    if kind in NATS:
        _need("nats", extra="nats", needed_for="a NATS broker")
        from pillarbox.brokers.nats import nats_broker

        return nats_broker(place, leases=_leases(store, relay, clock), foreign=foreign)
    if kind == KAFKA:
        _need("confluent_kafka", extra="kafka", needed_for="a Kafka broker")
        from pillarbox.brokers.kafka import kafka_broker

        return kafka_broker(place, clock=clock, lease=relay.lease, foreign=foreign)
    if kind in RABBITMQ:
        _need("pamqp", extra="rabbitmq", needed_for="a RabbitMQ broker")
        from pillarbox.brokers.rabbitmq import rabbitmq_broker

        return rabbitmq_broker(place, leases=_leases(store, relay, clock), foreign=foreign)
    raise ConfigurationError(f"there is no broker of the kind {kind!r}; there are {BROKERS}")


def _need(*modules: str, extra: str, needed_for: str) -> None:
    for module in modules:
        if find_spec(module) is None:
            raise MissingExtraError(module=module, extra=extra, needed_for=needed_for)


def _leases(store: RelationalStore, relay: RelaySettings, clock: Clock) -> PartitionLeases:
    return PartitionLeases(store=store.leases, source=store, clock=clock, ttl=relay.lease)


def outbox_of(store: RelationalStore, *, form: str, relay: RelaySettings) -> OutboxStore:
    """Return the outbox that producers write: the table, or the database's log.

    Raises:
        ConfigurationError: the database has no such log, or the relay would not read it.
    """
    if form == "table":
        return store.outbox
    if form != "log":
        raise ConfigurationError(f"an outbox stands in a 'table' or in the database's 'log', not in {form!r}")
    if store.traits.log is None:
        raise ConfigurationError(f"{store.name} has no log that can carry an outbox; leave Settings(outbox='table')")
    if relay.kind != RelayKind.LOG:
        raise ConfigurationError(
            f"records that stand in the log alone are read by no relay of the kind {str(relay.kind)!r}; "
            "set RelaySettings(kind='log') beside Settings(outbox='log')"
        )
    if relay.keep is not None:
        raise ConfigurationError(
            "records that stand in the log alone cannot be kept, nor republished; leave RelaySettings(keep=None), "
            "or use Settings(outbox='table')"
        )
    return store.traits.log.tableless


def _url(place: str | URL) -> URL:
    try:
        url = make_url(place)
    except (ArgumentError, ValueError):
        raise ConfigurationError(f"what store= names is no URL; there are {STORES}") from None  # it may hold a password
    if url.username is not None and "@" in f"{url.host}{url.database}":
        raise ConfigurationError(  # the host would be a part of the password, and errors name hosts
            "what store= names has an '@' after the host; in a user's name or password write %40 for '@', %2F for '/'"
        )
    return url
