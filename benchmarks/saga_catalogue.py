"""The benchmarks of sagas: four steps each, and what everybody persists for one is said in ``docs/benchmarks.md``."""

from __future__ import annotations

from benchmarks.bench import Bench, Competitor, Figure, Goal, Options, rate

OURS_TX = "pillarbox tx"
"""Steps that ask for the transaction: it holds their writes and the saga's own state."""
OURS_OUTSIDE = "pillarbox outside"
"""Steps without a transaction: the intent is committed before the step, its end after it."""
OURS_REQUEST = "pillarbox"
DBOS = "DBOS 3.4.0"
EDDA = "edda-framework 0.16.2"
ORCHESTRATOR = "python-saga-orchestrator 0.7.3"
ABSURD = "absurd-sdk 0.5.1"
RAW = "raw asyncpg"
RAW_GROUP = "raw asyncpg, 250 in a statement"
RAW_SQLITE = "raw sqlite3"
AT_ONCE = 500


def _ours(at_once: int) -> tuple[Competitor, ...]:
    return tuple(
        Competitor(who=who, module="pillarbox_saga", options=(("kind", kind), ("at_once", at_once)))
        for who, kind in ((OURS_TX, "tx"), (OURS_OUTSIDE, "outside"))
    )


def _dbos(part: float, *, at_once: int, kind: str = "steps") -> Competitor:
    return Competitor(who=DBOS, module="dbos_saga", peer="dbos", options=_options(kind, at_once), part=part)


def _edda(part: float, *, at_once: int, kind: str = "steps") -> Competitor:
    return Competitor(who=EDDA, module="edda_saga", peer="edda", options=_options(kind, at_once), part=part)


def _orchestrator(part: float, *, at_once: int, kind: str = "steps", batch: int = 1) -> Competitor:
    return Competitor(
        who=ORCHESTRATOR,
        module="python_saga_orchestrator_saga",
        peer="python-saga-orchestrator",
        options=(*_options(kind, at_once), ("batch", batch)),
        part=part,
    )


def _absurd(part: float, *, lanes: int, batch: int, kind: str = "steps") -> Competitor:
    options: Options = (("kind", kind), ("lanes", lanes), ("batch", batch))
    return Competitor(who=ABSURD, module="absurd_saga", peer="absurd", options=options, part=part)


def _raw(connections: int, *, kind: str = "one", part: float = 1) -> Competitor:
    options: Options = (("connections", connections), ("kind", kind))
    return Competitor(who=RAW, module="raw_saga_postgresql", options=options, part=part)


def _options(kind: str, at_once: int) -> Options:
    return (("kind", kind), ("at_once", at_once))


SAGA_BENCHES: tuple[Bench, ...] = (
    Bench(
        name="saga.local4.postgresql",
        title="Sagas of four steps with empty bodies on PostgreSQL, 500 under way",
        count=20_000,
        figures=rate("sagas/s"),
        competitors=(
            *_ours(AT_ONCE),
            _dbos(1 / 20, at_once=8),
            _edda(1 / 20, at_once=8),
            _orchestrator(1 / 20, at_once=8),
            _absurd(1 / 10, lanes=16, batch=4),
            _raw(16, part=1 / 2),
            Competitor(
                who=RAW_GROUP,
                module="raw_saga_postgresql",
                options=(("connections", 2), ("kind", "group"), ("group", 250)),
            ),
        ),
        goals=tuple(Goal(who=who, against=(DBOS, EDDA, ORCHESTRATOR), at_least=50) for who in (OURS_TX, OURS_OUTSIDE)),
    ),
    Bench(
        name="saga.lone4.postgresql",
        title="Sagas of four steps with empty bodies on PostgreSQL, one after another",
        count=1_000,
        figures=(
            *rate("sagas/s"),
            Figure(name="p50_ms", unit="ms p50", digits=1, less_is_better=True),
        ),
        competitors=(
            *_ours(1),
            _dbos(1 / 5, at_once=1),
            _edda(1 / 5, at_once=1),
            _orchestrator(1 / 5, at_once=1),
            _absurd(1 / 2, lanes=1, batch=1),
            _raw(1),
        ),
        goals=(
            *(Goal(who=who, against=(DBOS,), at_least=8) for who in (OURS_TX, OURS_OUTSIDE)),
            *(Goal(who=who, figure="p50_ms", at_most=15) for who in (OURS_TX, OURS_OUTSIDE)),
        ),
    ),
    Bench(
        name="saga.update4.postgresql",
        title="Sagas of four steps of one UPDATE each on PostgreSQL, 500 under way",
        count=10_000,
        figures=rate("sagas/s"),
        competitors=(
            Competitor(who=OURS_TX, module="pillarbox_saga", options=_options("update", AT_ONCE)),
            _dbos(1 / 20, at_once=8, kind="updates"),
            _edda(1 / 20, at_once=8, kind="updates"),
            _raw(16, kind="update"),
        ),
    ),
    Bench(
        name="saga.request4.postgresql",
        title="Sagas of four requests to a consumer, each answered, over the database itself, 500 under way",
        count=4_000,
        figures=rate("sagas/s"),
        competitors=(
            Competitor(who=OURS_REQUEST, module="pillarbox_saga", options=_options("request", AT_ONCE)),
            _dbos(1 / 20, at_once=8, kind="requests"),
            Competitor(
                who=EDDA,
                module="edda_saga_requests",
                peer="edda",
                options=(("at_once", 16), ("batch", 100)),
                part=1 / 100,
            ),
            _orchestrator(1 / 100, at_once=4, kind="requests", batch=10),
            _absurd(1 / 10, lanes=16, batch=4, kind="requests"),
        ),
        goals=(Goal(who=OURS_REQUEST, against=(DBOS, EDDA, ORCHESTRATOR), at_least=10),),
    ),
    Bench(
        name="saga.open.postgresql",
        title="Sagas that wait for a reply on PostgreSQL, and a process that begins anew beside them",
        count=100_000,
        figures=(*rate("sagas/s"), Figure(name="restart_s", unit="s to go on", digits=2, less_is_better=True)),
        competitors=(Competitor(who=OURS_REQUEST, module="pillarbox_open_sagas"),),
        goals=(
            Goal(who=OURS_REQUEST, figure="peak_mib", at_most=300),
            Goal(who=OURS_REQUEST, figure="restart_s", at_most=5),
        ),
    ),
    Bench(
        name="saga.local4.sqlite",
        title="Sagas of four steps with empty bodies on SQLite with synchronous = FULL",
        count=4_000,
        figures=rate("sagas/s"),
        competitors=(
            *_ours(AT_ONCE),
            _dbos(1 / 10, at_once=1),
            _edda(1 / 20, at_once=1),
            Competitor(who=RAW_SQLITE, module="raw_saga_sqlite"),
        ),
        goals=tuple(Goal(who=who, against=(DBOS,), at_least=8) for who in (OURS_TX, OURS_OUTSIDE)),
    ),
)
