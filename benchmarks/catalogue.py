"""All benchmarks, in the order in which ``make bench`` runs them."""

from __future__ import annotations

from benchmarks.bench import LATENCY, OURS, Bench, Competitor, Figure, Goal, rate
from benchmarks.saga_catalogue import SAGA_BENCHES

OURS_SEQUENCE = "pillarbox sequence"
OURS_LOG = "pillarbox log"
OURS_BATCH = "pillarbox, batch=500"
OURS_FAILING = "pillarbox, 10 % fail at once"
OURS_FAILING_LATE = "pillarbox, 10 % fail after a statement"
NEW = "pillarbox, new messages"
OURS_SQLALCHEMY = "pillarbox, SQLAlchemy"
TXOUTBOX = "txoutbox 0.2.2"
"""With its default order of keys, which is what ours keeps too."""
TXOUTBOX_UNORDERED = "txoutbox 0.2.2, keys unordered"
"""At the fastest settings that were found; messages of a key may overtake each other."""
FASTSTREAM_OUTBOX = "faststream-outbox 0.19.0"
FASTSTREAM = "FastStream 0.7.8"
"""Without an inbox: it handles again what comes again."""
FASTSTREAM_INBOX = "FastStream 0.7.8, inbox by hand"
"""Eight workers, each with a connection; messages of a key may overtake each other."""
WALBOX = "walbox 1.0.0"
OMNI_BOX = "omni-box 0.3.1"
NATS_OUTBOX = "nats-outbox 0.1.0"
"""It handles as many messages side by side as it prefetches, and those of a key overtake each other."""
RAW = "raw asyncpg"
RAW_LOG = "raw pgoutput"
RAW_KAFKA = "raw asyncpg, librdkafka"
RAW_REDIS = "raw asyncpg, packed XADD"
BUSINESS = "business only"
BUSINESS_SQLALCHEMY = "business only, SQLAlchemy"
RAW_PRODUCER = "raw INSERT"
NOTIFYING = "INSERT and NOTIFY"


def _producers(writers: int) -> tuple[Competitor, ...]:
    def on(module: str, who: str, publish: str, peer: str | None = None) -> Competitor:
        return Competitor(who=who, module=module, peer=peer, options=(("writers", writers), ("publish", publish)))

    return (
        on("producer_postgresql", OURS, "pillarbox"),
        on("producer_postgresql", BUSINESS, "nothing"),
        on("producer_postgresql", RAW_PRODUCER, "insert"),
        on("producer_postgresql", NOTIFYING, "notify"),
        on("producer_sqlalchemy", OURS_SQLALCHEMY, "pillarbox"),
        on("producer_sqlalchemy", BUSINESS_SQLALCHEMY, "nothing"),
        on("faststream_outbox_producer", FASTSTREAM_OUTBOX, "faststream-outbox", "faststream-outbox"),
    )


def _by_sequence(store: str) -> Bench:
    """What it costs to go by numbers, above the order of keys."""
    return Bench(
        name=f"consumer.sequence.{store}",
        title="Inbox and one UPDATE per message, in the order of numbers that come in order, beside the order of keys",
        count=10_000,
        figures=rate("messages/s"),
        competitors=(
            Competitor(who=OURS, module="pillarbox_consumer", options={"by_sequence": True}),
            Competitor(who="by key", module="pillarbox_consumer"),
        ),
        goals=(Goal(against=("by key",), at_least=0.7),),
    )


def _noop_consumer(broker: str, *, at_least: float) -> Bench:
    options = (("broker", broker),)
    return Bench(
        name=f"consumer.noop.{broker}",
        database="sqlite",
        title=f"A handler that only counts, without an inbox, from {broker}",
        count=20_000,
        figures=rate("messages/s"),
        competitors=(
            Competitor(who=OURS, module="pillarbox_consumer_stream", options=options),
            Competitor(who=FASTSTREAM, module="faststream_consumer", peer=f"faststream-{broker}", options=options),
        ),
        goals=(Goal(against=(FASTSTREAM,), at_least=at_least), Goal(figure="cpu_us", at_most=40)),
    )


BENCHES: tuple[Bench, ...] = (
    Bench(
        name="relay.noop.postgresql",
        title="A backlog in PostgreSQL, relayed to a sender that only counts",
        count=50_000,
        figures=rate("events/s"),
        competitors=(
            Competitor(who=OURS, module="pillarbox_relay"),
            Competitor(who=OURS_SEQUENCE, module="pillarbox_relay", options=(("kind", "sequence"),)),
            Competitor(who=TXOUTBOX, module="txoutbox_relay", peer="txoutbox"),
            Competitor(
                who=TXOUTBOX_UNORDERED,
                module="txoutbox_relay",
                peer="txoutbox",
                options=(("strict_ordering", False), ("batch", 2000), ("concurrency", 500)),
            ),
            Competitor(who=FASTSTREAM_OUTBOX, module="faststream_outbox_relay", peer="faststream-outbox"),
            Competitor(who=OMNI_BOX, module="omni_box_relay", peer="omni-box"),
            Competitor(who=NATS_OUTBOX, module="nats_outbox_relay", peer="nats-outbox"),
            Competitor(who=RAW, module="raw_relay_postgresql"),
        ),
        goals=(
            Goal(against=(TXOUTBOX, FASTSTREAM_OUTBOX, OMNI_BOX, NATS_OUTBOX), at_least=5),
            Goal(against=(RAW,), at_least=0.5),
            Goal(figure="cpu_us", against=(TXOUTBOX,), at_most=1 / 8),
            Goal(figure="cpu_us", at_most=20),
        ),
    ),
    Bench(
        name="relay.redis.postgresql",
        title="A backlog in PostgreSQL, relayed to Redis Streams",
        count=50_000,
        figures=rate("events/s"),
        competitors=(
            Competitor(who=OURS, module="pillarbox_relay_stream", options=(("broker", "redis"),)),
            Competitor(who=TXOUTBOX, module="txoutbox_relay_redis", peer="txoutbox-redis"),
            Competitor(
                who=TXOUTBOX_UNORDERED,
                module="txoutbox_relay_redis",
                peer="txoutbox-redis",
                options=(("strict_ordering", False),),
            ),
            Competitor(who=RAW_REDIS, module="raw_relay_redis"),
        ),
        goals=(
            Goal(against=(TXOUTBOX, TXOUTBOX_UNORDERED), at_least=6),
            Goal(figure="cpu_us", at_most=30),
        ),
    ),
    Bench(
        name="relay.nats.postgresql",
        title="A backlog in PostgreSQL, relayed to NATS JetStream",
        count=20_000,
        figures=rate("events/s"),
        competitors=(
            Competitor(who=OURS, module="pillarbox_relay_stream", options=(("broker", "nats"),)),
            Competitor(who=TXOUTBOX, module="txoutbox_relay_nats", peer="txoutbox-nats"),
            Competitor(
                who=TXOUTBOX_UNORDERED,
                module="txoutbox_relay_nats",
                peer="txoutbox-nats",
                options=(("strict_ordering", False),),
            ),
            Competitor(who=NATS_OUTBOX, module="nats_outbox_relay", peer="nats-outbox", options=(("nats", True),)),
        ),
        goals=(Goal(against=(TXOUTBOX, TXOUTBOX_UNORDERED, NATS_OUTBOX), at_least=3),),
    ),
    Bench(
        name="relay.kafka.postgresql",
        title="A backlog in PostgreSQL, relayed to Kafka",
        count=50_000,
        figures=rate("events/s"),
        competitors=(
            Competitor(who=OURS, module="pillarbox_relay_stream", options=(("broker", "kafka"),)),
            Competitor(who=TXOUTBOX, module="txoutbox_relay_kafka", peer="txoutbox-kafka"),
            Competitor(
                who=TXOUTBOX_UNORDERED,
                module="txoutbox_relay_kafka",
                peer="txoutbox-kafka",
                options=(("strict_ordering", False),),
            ),
            Competitor(who=RAW_KAFKA, module="raw_relay_kafka"),
        ),
    ),
    Bench(
        name="relay.log.postgresql",
        title="A backlog of transactions of one event each, read from PostgreSQL's log to a sender that only counts",
        count=50_000,
        figures=rate("events/s"),
        competitors=(
            Competitor(who=OURS_LOG, module="pillarbox_log"),
            Competitor(who=WALBOX, module="walbox_log", peer="walbox"),
            Competitor(who=RAW_LOG, module="raw_log_postgresql"),
        ),
        goals=(
            Goal(who=OURS_LOG, against=(WALBOX,), at_least=3),
            Goal(who=OURS_LOG, against=(RAW_LOG,), at_least=0.5),
            Goal(who=OURS_LOG, figure="cpu_us", at_most=20),
        ),
    ),
    Bench(
        name="relay.latency.postgresql",
        title="From a producer's commit to the sender, 200 transactions of one event a second",
        count=2_000,
        figures=LATENCY,
        competitors=(
            Competitor(who=OURS, module="pillarbox_latency"),
            Competitor(who=OURS_SEQUENCE, module="pillarbox_latency", options=(("kind", "sequence"),)),
            Competitor(who=OURS_LOG, module="pillarbox_latency", options=(("kind", "log"),)),
            Competitor(who=TXOUTBOX, module="txoutbox_latency", peer="txoutbox"),
            Competitor(who=FASTSTREAM_OUTBOX, module="faststream_outbox_latency", peer="faststream-outbox"),
            Competitor(who=WALBOX, module="walbox_latency", peer="walbox"),
            Competitor(who=OMNI_BOX, module="omni_box_latency", peer="omni-box"),
        ),
        goals=(
            Goal(figure="p50_ms", against=(FASTSTREAM_OUTBOX, TXOUTBOX), at_most=0.7),
            Goal(figure="p99_ms", against=(FASTSTREAM_OUTBOX, TXOUTBOX), at_most=0.7),
            Goal(who=OURS_LOG, figure="p50_ms", against=(WALBOX,), at_most=0.9),
        ),
    ),
    Bench(
        name="producer.8.postgresql",
        title="Transactions of one row of business data and one event, 8 writers",
        count=20_000,
        figures=rate("transactions/s"),
        competitors=_producers(8),
        goals=(
            Goal(against=(BUSINESS,), at_least=0.75),
            Goal(against=(NOTIFYING,), at_least=1.8),
            Goal(who=OURS_SQLALCHEMY, against=(BUSINESS_SQLALCHEMY,), at_least=0.75),
            Goal(who=OURS_SQLALCHEMY, against=(FASTSTREAM_OUTBOX,), at_least=1.8),
        ),
    ),
    Bench(
        name="producer.1.postgresql",
        title="Transactions of one row of business data and one event, a single writer",
        count=5_000,
        figures=rate("transactions/s"),
        competitors=_producers(1),
        goals=(  # an event may make a transaction 35 % longer
            Goal(against=(BUSINESS,), at_least=1 / 1.35),
            Goal(who=OURS_SQLALCHEMY, against=(BUSINESS_SQLALCHEMY,), at_least=1 / 1.35),
        ),
    ),
    Bench(
        name="relay.noop.sqlite",
        title="A backlog in SQLite, relayed to a sender that only counts",
        count=50_000,
        figures=rate("events/s"),
        competitors=(
            Competitor(who=OURS, module="pillarbox_relay"),
            Competitor(who=TXOUTBOX, module="txoutbox_relay_sqlite", peer="txoutbox"),
            Competitor(who="raw sqlite3", module="raw_relay_sqlite"),
        ),
    ),
    Bench(
        name="relay.memory.postgresql",
        title="The memory of a relay that works off a long backlog in PostgreSQL",
        count=1_000_000,
        figures=rate("events/s"),
        competitors=(Competitor(who=OURS, module="pillarbox_relay"),),
        goals=(Goal(figure="peak_mib", at_most=200),),
    ),
    Bench(
        name="consumer.inbox.postgresql",
        title="Inbox and one UPDATE per message on one PostgreSQL connection, the messages given in memory",
        count=10_000,
        figures=rate("messages/s"),
        competitors=(
            Competitor(who=OURS, module="pillarbox_consumer"),
            Competitor(who=OURS_BATCH, module="pillarbox_consumer", options=(("batch", 500),)),
            Competitor(who="naive", module="naive_consumer"),
            Competitor(who="raw asyncpg naive", module="raw_consumer_postgresql"),
        ),
        goals=(Goal(against=("naive",), at_least=4), Goal(who=OURS_BATCH, against=("naive",), at_least=25)),
    ),
    Bench(
        name="consumer.lanes.postgresql",
        title="Inbox and one UPDATE per message on eight PostgreSQL connections, the messages given in memory",
        count=20_000,
        figures=rate("messages/s"),
        competitors=(
            Competitor(who=OURS, module="pillarbox_consumer", options=(("lanes", 8),)),
            Competitor(who="naive", module="naive_consumer", options=(("connections", 8),)),
        ),
        goals=(Goal(against=("naive",), at_least=1.5),),
    ),
    Bench(
        name="consumer.e2e.postgresql",
        title="From a Redis stream to one UPDATE per message with an inbox in PostgreSQL",
        count=10_000,
        figures=rate("messages/s"),
        competitors=(
            Competitor(who=OURS, module="pillarbox_consumer_e2e"),
            Competitor(who=FASTSTREAM_INBOX, module="faststream_consumer_e2e", peer="faststream-redis-postgresql"),
        ),
        goals=(Goal(against=(FASTSTREAM_INBOX,), at_least=5),),
    ),
    Bench(
        name="failures.retry.postgresql",
        title="Inbox and one UPDATE per message on one PostgreSQL connection, 10 % of the messages failing once",
        count=10_000,
        figures=rate("messages/s"),
        competitors=(
            Competitor(who=OURS, module="pillarbox_consumer"),
            Competitor(who=OURS_FAILING, module="pillarbox_consumer", options=(("failing", "before"),)),
            Competitor(who=OURS_FAILING_LATE, module="pillarbox_consumer", options=(("failing", "after"),)),
        ),
        goals=(
            Goal(who=OURS_FAILING, against=(OURS,), at_least=0.7),
            Goal(who=OURS_FAILING_LATE, against=(OURS,), at_least=0.35),
        ),
    ),
    Bench(
        name="failures.replay_all.postgresql",
        title="Dead letters among ten times as many: made due, then handled like new messages are on one connection",
        count=100_000,
        figures=(
            *rate("messages/s"),
            Figure(name="enqueue_s", unit="s to enqueue", digits=2, less_is_better=True),
            Figure(name="groups_ms", unit="ms for groups", digits=1, less_is_better=True),
        ),
        competitors=(
            Competitor(who=OURS, module="pillarbox_replay"),
            Competitor(who=NEW, module="pillarbox_consumer"),
        ),
        goals=(
            Goal(against=(NEW,), at_least=0.5),
            Goal(figure="enqueue_s", at_most=10),
            Goal(figure="groups_ms", at_most=300),
        ),
    ),
    _by_sequence("postgresql"),
    _by_sequence("sqlite"),
    _noop_consumer("redis", at_least=6),
    _noop_consumer("nats", at_least=1.5),
    _noop_consumer("kafka", at_least=2),
    _noop_consumer("rabbitmq", at_least=1.2),
    Bench(
        name="consumer.inbox.sqlite",
        title="Inbox and one UPDATE per message on one SQLite connection, the messages given in memory",
        count=10_000,
        figures=rate("messages/s"),
        competitors=(
            Competitor(who=OURS, module="pillarbox_consumer"),
            Competitor(who="naive", module="naive_consumer"),
            Competitor(who="raw sqlite3 naive", module="raw_consumer_sqlite"),
        ),
    ),
    *SAGA_BENCHES,
)
