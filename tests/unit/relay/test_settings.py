"""What can be set about a relay."""

from datetime import timedelta
from typing import Any

import pytest

from pillarbox.errors import ConfigurationError
from pillarbox.relay import RelaySettings


@pytest.mark.parametrize(("window", "batch"), [(1, 1), (2, 1), (3, 1), (20, 6), (1500, 500)])
def test_three_batches_fit_into_the_window_that_bounds_duplicates(window: int, batch: int) -> None:
    assert RelaySettings(window=window).batch == batch


@pytest.mark.parametrize("window", [0, -3])
def test_a_window_that_holds_no_message_is_refused(window: int) -> None:
    with pytest.raises(ConfigurationError, match="window"):
        RelaySettings(window=window)


@pytest.mark.parametrize("lease", [timedelta(0), timedelta(seconds=-1), timedelta.max])
def test_a_lease_that_is_over_at_once_or_never_is_refused(lease: timedelta) -> None:
    """With the first a relay would publish nothing, and say nothing."""
    with pytest.raises(ConfigurationError, match="lease"):
        RelaySettings(lease=lease)


@pytest.mark.parametrize("keep", [timedelta(0), timedelta(days=-1)])
def test_to_keep_for_no_time_is_refused(keep: timedelta) -> None:
    with pytest.raises(ConfigurationError, match="keep"):
        RelaySettings(keep=keep)


def test_partitions_that_would_be_made_all_the_time_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="partition"):
        RelaySettings(partition_rows=9_999)


@pytest.mark.parametrize(
    "pauses",
    [
        {"shortest_poll": timedelta(0)},
        {"shortest_poll": timedelta(seconds=1)},
        {"longest_poll": timedelta(seconds=-1)},
        {"longest_backoff": timedelta(0)},
        {"longest_poll": timedelta(minutes=1)},
    ],
)
def test_pauses_that_are_none_or_contradict_each_other_are_refused(pauses: dict[str, Any]) -> None:
    """Without a pause a relay that has no work asks its database again and again."""
    with pytest.raises(ConfigurationError, match="shortest_poll <= longest_poll <= longest_backoff"):
        RelaySettings(**pauses)
