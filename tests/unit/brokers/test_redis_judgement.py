"""What the doctor says about facts of a Redis."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.exceptions import ResponseError

from pillarbox.brokers.redis.diagnosis import RedisFacts, judge_redis, look
from pillarbox.control.diagnosis import Severity

if TYPE_CHECKING:
    from pillarbox.brokers.redis.connection import RedisConnection

SETTINGS: Mapping[str, str] = {
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory": "0",
    "maxmemory-policy": "noeviction",
    "min-replicas-to-write": "0",
}
SOUND = RedisFacts(settings=SETTINGS, role="master", replicas=0)


class RedisOf62:
    """Answers as Redis 6.2 does, which takes one name in CONFIG GET; from 7.0 on it takes several."""

    async def execute_all(self, commands: Sequence[Sequence[str]]) -> Sequence[Any]:
        return [self._answer(*command) for command in commands]

    def _answer(self, *words: str) -> object:
        match words:
            case "INFO", _:
                return b"role:master\r\nconnected_slaves:0\r\n"
            case "CONFIG", "GET", name:
                return [name.encode(), SETTINGS[name].encode()]
            case _:
                return ResponseError("Unknown subcommand or wrong number of arguments for 'GET'. Try CONFIG HELP.")


async def test_the_settings_of_the_oldest_release_are_seen() -> None:
    assert await look(cast("RedisConnection", RedisOf62())) == SOUND


def test_a_sound_server_has_nothing_amiss() -> None:
    assert {one.severity for one in judge_redis(SOUND)} == {Severity.OK}


@pytest.mark.parametrize(
    ("settings", "code", "severity"),
    [
        ({"appendonly": "no"}, "append-only", Severity.WARNING),
        ({"appendfsync": "everysec"}, "append-fsync", Severity.NOTICE),
        ({"appendfsync": "no"}, "append-fsync", Severity.NOTICE),
        ({"maxmemory-policy": "allkeys-lru"}, "eviction", Severity.NOTICE),
        ({"maxmemory-policy": "allkeys-lru", "maxmemory": "1000000"}, "eviction", Severity.ERROR),
    ],
)
def test_settings_that_endanger_messages_are_found(settings: dict[str, str], code: str, severity: Severity) -> None:
    facts = replace(SOUND, settings={**SETTINGS, **settings})

    (finding,) = [one for one in judge_redis(facts) if one.severity is not Severity.OK]

    assert (finding.code, finding.severity) == (code, severity)
    assert finding.means
    assert finding.do


@pytest.mark.parametrize(
    ("facts", "code", "severity"),
    [
        (replace(SOUND, role="slave"), "replica", Severity.ERROR),
        (replace(SOUND, replicas=2), "replica", Severity.NOTICE),
        (replace(SOUND, settings=None), "redis-rights", Severity.NOTICE),
    ],
)
def test_a_place_that_endangers_messages_is_found(facts: RedisFacts, code: str, severity: Severity) -> None:
    (finding,) = [one for one in judge_redis(facts) if one.severity is not Severity.OK]

    assert (finding.code, finding.severity) == (code, severity)


def test_replicas_that_must_follow_are_well() -> None:
    facts = replace(SOUND, replicas=2, settings={**SETTINGS, "min-replicas-to-write": "1"})

    assert {one.severity for one in judge_redis(facts)} == {Severity.OK}
