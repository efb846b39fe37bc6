"""Times that mean nothing are refused."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pillarbox import InboxSettings
from pillarbox.errors import ConfigurationError


def test_zero_keeps_nothing_and_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="keep must be a timedelta above zero, or None to keep ids for ever"):
        InboxSettings(keep=timedelta(0))


def test_a_replay_before_the_failure_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="replay_within"):
        InboxSettings(replay_within=timedelta(seconds=-1))


def test_where_nothing_is_forgotten_every_replay_is_in_time() -> None:
    assert InboxSettings(keep=None).replayable_for is None
    assert InboxSettings().replayable_for == timedelta(days=14)
