"""In which groups a batch is sent."""

from pillarbox.relay.waves import key_of, waves
from tests.messages import pending


def _divided(*places: tuple[str, str | None], ordered_prefix: bool = False) -> list[list[int]]:
    batch = [pending(number, destination, key) for number, (destination, key) in enumerate(places)]
    return [[record.position for record in wave] for wave in waves(batch, ordered_prefix=ordered_prefix)]


def test_a_wave_holds_one_message_of_each_key() -> None:
    assert _divided(("t", "a"), ("t", "a"), ("t", "b"), ("t", "a"), ("t", "b")) == [[0, 2], [1, 4], [3]]


def test_messages_without_a_key_wait_for_nobody() -> None:
    assert _divided(("t", None), ("t", None), ("t", None)) == [[0, 1, 2]]


def test_one_key_in_two_destinations_is_two_keys() -> None:
    assert _divided(("t", "a"), ("u", "a")) == [[0, 1]]


def test_a_message_without_a_key_is_not_mistaken_for_a_key() -> None:
    keyless = pending(0, "t", None)
    keyed = pending(1, "t", keyless.message.id)

    assert key_of(keyless) != key_of(keyed)


def test_a_sender_that_stores_a_prefix_gets_the_whole_batch() -> None:
    assert _divided(("t", "a"), ("t", "a"), ("t", "b"), ordered_prefix=True) == [[0, 1, 2]]


def test_an_empty_batch_has_no_waves() -> None:
    assert _divided() == _divided(ordered_prefix=True) == []
