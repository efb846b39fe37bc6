"""How long an idle poller waits."""

from datetime import timedelta

from pillarbox.channel.wakeup import Pace

MS = timedelta(milliseconds=1)


def test_pauses_grow_up_to_the_longest() -> None:
    pace = Pace(shortest=MS, longest=5 * MS)

    assert [pace.pause() for _ in range(5)] == [MS, 2 * MS, 4 * MS, 5 * MS, 5 * MS]


def test_work_found_shortens_them_again() -> None:
    pace = Pace(shortest=MS, longest=5 * MS)
    for _ in range(3):
        pace.pause()

    pace.found_work()

    assert [pace.pause() for _ in range(2)] == [MS, 2 * MS]


def test_steady_pauses_come_before_longer_ones() -> None:
    pace = Pace(shortest=MS, longest=5 * MS, steady=3)

    assert [pace.pause() for _ in range(5)] == [MS, MS, MS, 2 * MS, 4 * MS]
    pace.found_work()
    assert [pace.pause() for _ in range(4)] == [MS, MS, MS, 2 * MS]
