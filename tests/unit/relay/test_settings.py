"""What can be set about a relay."""

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
