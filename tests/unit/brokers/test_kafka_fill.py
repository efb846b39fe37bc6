"""How much a Kafka consumer reads ahead."""

from __future__ import annotations

import pytest

from pillarbox.brokers.kafka.fill import PAUSE_AFTER_S, READY_AT_MOST, READY_BYTES_AT_MOST, Act, Fill

FULL = [(READY_AT_MOST, 0), (1, READY_BYTES_AT_MOST)]


@pytest.mark.parametrize(("ready", "size"), FULL)
def test_what_is_full_for_a_moment_waits_and_is_not_paused(ready: int, size: int) -> None:
    """A pause throws away what the client has fetched: a busy consumer would fetch everything many times."""
    fill = Fill()
    for turn in range(100):
        now = turn * PAUSE_AFTER_S
        assert fill.judge(ready, size, now) is Act.WAIT
        assert fill.judge(READY_AT_MOST - 1, 0, now + PAUSE_AFTER_S) is Act.POLL
    assert not fill.is_paused


@pytest.mark.parametrize(("ready", "size"), FULL)
def test_what_stays_full_is_paused_once_and_polled_on(ready: int, size: int) -> None:
    fill = Fill()

    acts = [fill.judge(ready, size, now) for now in (0.0, PAUSE_AFTER_S, PAUSE_AFTER_S + 0.1, PAUSE_AFTER_S + 60)]

    assert acts == [Act.WAIT, Act.WAIT, Act.PAUSE, Act.POLL]


def test_it_goes_on_when_half_of_it_is_gone() -> None:
    fill = Fill(is_paused=True)

    assert fill.judge(READY_AT_MOST // 2 + 1, 0, 9.0) is Act.POLL
    assert fill.judge(READY_AT_MOST // 2, READY_BYTES_AT_MOST // 2 + 1, 9.0) is Act.POLL
    assert fill.judge(READY_AT_MOST // 2, READY_BYTES_AT_MOST // 2, 9.0) is Act.RESUME
    assert fill.judge(READY_AT_MOST // 2, READY_BYTES_AT_MOST // 2, 9.0) is Act.POLL
