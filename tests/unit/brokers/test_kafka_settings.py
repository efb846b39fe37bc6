"""What a URL says about a Kafka."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pillarbox.brokers.kafka.settings import settings_of
from pillarbox.errors import ConfigurationError


def test_addresses_and_options_are_read() -> None:
    settings = settings_of("kafka://a:9092,b:9093?partitions=4&replication=3&begin=earliest&drain=2&linger.ms=5")

    assert settings.servers == "a:9092,b:9093"
    assert (settings.partitions, settings.replication, settings.begin) == (4, 3, "earliest")
    assert settings.drain_within == timedelta(seconds=2)
    assert settings.producer()["linger.ms"] == "5"
    assert "linger.ms" not in settings.consumer("g")


def test_guarantees_do_not_hang_on_options() -> None:
    settings = settings_of("kafka://a:9092")

    assert settings.producer()["enable.idempotence"] is True
    assert settings.producer()["acks"] == "all"
    assert settings.producer()["partitioner"] == "murmur2_random"
    assert settings.consumer("g")["enable.auto.commit"] is False
    assert settings.consumer("g")["auto.offset.reset"] == "error"


def test_a_user_speaks_sasl() -> None:
    admin = settings_of("kafka://me:p%40ss@a:9092?sasl.mechanism=PLAIN").admin()

    assert (admin["sasl.username"], admin["sasl.password"], admin["sasl.mechanism"]) == ("me", "p@ss", "PLAIN")
    assert admin["security.protocol"] == "SASL_SSL"


def test_the_largest_body_leaves_room_for_the_rest() -> None:
    assert settings_of("kafka://a:1").max_body_bytes > 1_000_000
    assert settings_of("kafka://a:1?message.max.bytes=5000000").max_body_bytes < 5_000_000


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("kafka://", "no URL of a Kafka"),
        ("kafka://a:1/topic", "no URL of a Kafka"),
        ("kafka://a:1?acks=1", "acks"),
        ("kafka://a:1?enable.idempotence=false", "enable.idempotence"),
        ("kafka://a:1?partition=3", "'partition'"),
        ("kafka://a:1?partitions=0", "whole number from 1"),
        ("kafka://a:1?begin=middle", "'latest' or 'earliest'"),
    ],
)
def test_what_cannot_be_meant_is_refused(url: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        settings_of(url)
