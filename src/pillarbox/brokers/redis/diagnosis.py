"""The doctor of Redis: what its settings make of a confirm.

The rows of RELIABILITY behind the codes: ``append-only``, ``append-fsync``, ``eviction`` and ``replica`` R5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pillarbox.brokers.redis.connection import RedisConnection, is_refusal
from pillarbox.control.diagnosis import Finding, Severity, problem, well

ASKED = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy", "min-replicas-to-write")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisFacts:
    """Everything that the doctor judges.

    Attributes:
        settings: what the server answers for each of the settings asked for; ``None`` where it does not tell.
        role: ``master``, or ``slave`` where what is written is refused or thrown away.
        replicas: how many copy what is written.
    """

    settings: Mapping[str, str] | None
    role: str
    replicas: int


async def look(connection: RedisConnection) -> RedisFacts:
    """Ask the server.

    Raises:
        BrokerUnavailableError: it cannot be reached.
    """
    asking = [("CONFIG", "GET", name) for name in ASKED]  # one by one: Redis takes several names from 7.0 on
    replication, *answers = await connection.execute_all([("INFO", "replication"), *asking])
    lines = dict(line.partition(":")[::2] for line in replication.decode().splitlines() if ":" in line)
    return RedisFacts(
        settings=None if any(map(is_refusal, answers)) else _pairs(answers),
        role=lines.get("role", "master"),
        replicas=int(lines.get("connected_slaves", "0")),
    )


def judge_redis(facts: RedisFacts) -> list[Finding]:
    """Return every finding, good and bad."""
    return [*_replication(facts), *_settings(facts)]


def _settings(facts: RedisFacts) -> Iterator[Finding]:
    if facts.settings is None:
        means = "whether what was confirmed survives a crash cannot be told"
        do = "let the user of the service run CONFIG GET, or look at the settings where the server is managed"
        yield problem("redis-rights", Severity.NOTICE, "CONFIG GET", "refused", means=means, do=do)
        return
    yield from _persistence(facts.settings)
    policy, limit = facts.settings.get("maxmemory-policy", ""), facts.settings.get("maxmemory", "0")
    if policy == "noeviction":
        yield well("eviction", "maxmemory-policy", policy)
        return
    severity = Severity.NOTICE if limit == "0" else Severity.ERROR
    means = "when memory runs out Redis removes whole streams, and with them messages that were confirmed"
    yield problem(
        "eviction", severity, "maxmemory-policy", policy, means=means, do="CONFIG SET maxmemory-policy noeviction"
    )


def _persistence(settings: Mapping[str, str]) -> Iterator[Finding]:
    if settings.get("appendonly") != "yes":
        means = "a crash or a restart takes back what was confirmed, all of it since the last snapshot"
        yield problem("append-only", Severity.WARNING, "appendonly", "no", means=means, do="CONFIG SET appendonly yes")
        return
    yield well("append-only", "appendonly", "yes")
    fsync = settings.get("appendfsync", "")
    if fsync == "always":
        yield well("append-fsync", "appendfsync", fsync)
        return
    lost = "about a second" if fsync == "everysec" else "as much as the operating system has not written"
    means = f"a power failure takes back {lost} of what was confirmed; the end of the process alone does not"
    do = "CONFIG SET appendfsync always, or keep published records: RelaySettings(keep=…)"
    yield problem("append-fsync", Severity.NOTICE, "appendfsync", fsync, means=means, do=do)


def _replication(facts: RedisFacts) -> Iterator[Finding]:
    if facts.role != "master":
        means = "it takes no messages, and what it does take the next synchronisation throws away"
        yield problem("replica", Severity.ERROR, "role", facts.role, means=means, do="name the primary in broker=")
        return
    waits_for = int((facts.settings or {}).get("min-replicas-to-write", "0"))
    if not facts.replicas:
        yield well("replica", "role", "master, without replicas")
    elif waits_for:
        yield well("replica", "role", f"master; it takes nothing while fewer than {waits_for} replicas follow")
    else:
        means = "a replica that takes over lacks what was confirmed last, since it is copied after the confirm"
        do = "CONFIG SET min-replicas-to-write 1 narrows it; keep published records: RelaySettings(keep=…)"
        what = f"master of {facts.replicas}, and does not ask whether they follow"
        yield problem("replica", Severity.NOTICE, "role", what, means=means, do=do)


def _pairs(answers: Iterable[Sequence[bytes]]) -> dict[str, str]:
    texts = [one.decode() for answer in answers for one in answer]
    return dict(zip(texts[::2], texts[1::2], strict=True))
