"""Which destinations take nothing now, and until when."""

from datetime import timedelta

from pillarbox.relay.pauses import OUTBOX, Pauses

SECOND = timedelta(seconds=1)


def _pauses(dice: float = 1.0) -> Pauses:
    return Pauses(first=SECOND, longest=5 * SECOND, dice=lambda: dice)


def test_a_pause_lasts_and_ends() -> None:
    pauses = _pauses()

    assert pauses.pause("topic:a", now=10.0) == SECOND
    assert pauses.is_paused("topic:a", now=10.9)
    assert not pauses.is_paused("topic:a", now=11.0)


def test_each_pause_is_twice_as_long_up_to_the_longest() -> None:
    pauses = _pauses()

    assert [pauses.pause("a", now=0.0) / SECOND for _ in range(5)] == [1, 2, 4, 5, 5]


def test_a_pause_is_drawn_from_the_upper_half_of_its_longest() -> None:
    shortest, middle = _pauses(dice=0.0), _pauses(dice=0.5)

    assert [shortest.pause("a", now=0.0) / SECOND for _ in range(4)] == [0.5, 1, 2, 2.5]
    assert [middle.pause("a", now=0.0) / SECOND for _ in range(4)] == [0.75, 1.5, 3, 3.75]


def test_success_begins_anew() -> None:
    pauses = _pauses()
    pauses.pause("a", now=0.0)
    pauses.pause("a", now=0.0)

    pauses.succeeded("a")

    assert not pauses.has_failed("a")
    assert not pauses.is_paused("a", now=0.0)
    assert pauses.pause("a", now=0.0) == SECOND


def test_a_pause_that_is_over_still_makes_the_next_try_a_probe() -> None:
    pauses = _pauses()
    pauses.pause("a", now=0.0)

    assert pauses.has_failed("a")
    assert pauses.active(now=100.0) == []


def test_names_pause_by_themselves() -> None:
    pauses = _pauses()
    pauses.pause("b", now=0.0)
    pauses.pause("a", now=0.5)

    assert pauses.active(now=0.9) == ["a", "b"]
    assert pauses.active(now=1.2) == ["a"]
    assert not pauses.has_failed("c")


def test_what_has_failed_is_left_out_until_its_turn_and_found_again_at_every_third_read() -> None:
    pauses = _pauses()
    pauses.pause("a", now=0.0)
    pauses.pause("b", now=1.0)

    assert [pauses.left_out(of=OUTBOX, now=1.5) for _ in range(3)] == [["a", "b"], ["a", "b"], ["b"]]
    assert pauses.left_out(of=OUTBOX, now=100.0) == ["a", "b"] == pauses.failed()


def test_success_of_what_never_failed_changes_nothing() -> None:
    pauses = _pauses()
    pauses.succeeded("a")

    assert pauses.active(now=0.0) == []
