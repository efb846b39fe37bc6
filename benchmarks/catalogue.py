"""All benchmarks, in the order in which ``make bench`` runs them."""

from __future__ import annotations

from benchmarks.bench import OURS, Bench, Competitor, Goal

TXOUTBOX = "txoutbox 0.2.2"
"""With its default order of keys, which is what ours keeps too."""
TXOUTBOX_UNORDERED = "txoutbox 0.2.2, keys unordered"
"""At the fastest settings that were found; messages of a key may overtake each other."""
FASTSTREAM_OUTBOX = "faststream-outbox 0.19.0"

BENCHES: tuple[Bench, ...] = (
    Bench(
        name="relay.noop.postgresql",
        title="A backlog in PostgreSQL, relayed to a sender that only counts",
        count=50_000,
        unit="events/s",
        competitors=(
            Competitor(who=OURS, module="pillarbox_relay"),
            Competitor(who=TXOUTBOX, module="txoutbox_relay", peer="txoutbox"),
            Competitor(
                who=TXOUTBOX_UNORDERED,
                module="txoutbox_relay",
                peer="txoutbox",
                options=(("strict_ordering", False), ("batch", 2000), ("concurrency", 500)),
            ),
            Competitor(who=FASTSTREAM_OUTBOX, module="faststream_outbox_relay", peer="faststream-outbox"),
            Competitor(who="raw asyncpg", module="raw_relay_postgresql"),
        ),
        goals=(Goal(against=(TXOUTBOX, FASTSTREAM_OUTBOX), ratio=5),),
    ),
    Bench(
        name="relay.noop.sqlite",
        title="A backlog in SQLite, relayed to a sender that only counts",
        count=50_000,
        unit="events/s",
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
        unit="events/s",
        competitors=(Competitor(who=OURS, module="pillarbox_relay"),),
        goals=(Goal(peak_mib=200),),
    ),
    Bench(
        name="consumer.inbox.postgresql",
        title="Inbox and one UPDATE per message on one PostgreSQL connection, the messages given in memory",
        count=10_000,
        unit="messages/s",
        competitors=(
            Competitor(who=OURS, module="pillarbox_consumer"),
            Competitor(who="naive", module="naive_consumer"),
            Competitor(who="raw asyncpg naive", module="raw_consumer_postgresql"),
        ),
        goals=(Goal(against=("naive",), ratio=4),),
    ),
    Bench(
        name="consumer.inbox.sqlite",
        title="Inbox and one UPDATE per message on one SQLite connection, the messages given in memory",
        count=10_000,
        unit="messages/s",
        competitors=(
            Competitor(who=OURS, module="pillarbox_consumer"),
            Competitor(who="naive", module="naive_consumer"),
            Competitor(who="raw sqlite3 naive", module="raw_consumer_sqlite"),
        ),
    ),
)
