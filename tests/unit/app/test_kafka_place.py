"""A broker is found by its URL, and what is missing for it is named."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pillarbox import Pillarbox, Settings
from pillarbox.app import places
from pillarbox.brokers.kafka import KafkaBroker
from pillarbox.errors import MissingExtraError
from pillarbox.relay import RelaySettings


def test_a_url_of_kafka_is_a_broker_that_confirms_well_within_the_relay_s_lease() -> None:
    settings = Settings(relay=RelaySettings(lease=timedelta(seconds=9)))
    box = Pillarbox("shop", store="memory://", broker="kafka://localhost:9092", settings=settings)

    assert isinstance(box.broker, KafkaBroker)
    assert box.broker.capabilities.ordered_prefix


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "find_spec", lambda _name: None)

    with pytest.raises(MissingExtraError, match="kafka"):
        Pillarbox("shop", store="memory://", broker="kafka://localhost:9092")
