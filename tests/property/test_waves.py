"""Properties of the groups in which a batch is sent."""

from hypothesis import given
from hypothesis import strategies as st

from pillarbox.relay import PendingRecord
from pillarbox.relay.waves import key_of, waves
from tests.messages import pending

places = st.tuples(st.sampled_from(["topic:a", "topic:b", "queue:a"]), st.none() | st.sampled_from("klm"))
batches = st.lists(places, max_size=40).map(
    lambda chosen: [pending(number, destination, key) for number, (destination, key) in enumerate(chosen)]
)


@given(batches, st.booleans())
def test_together_the_waves_are_the_batch(batch: list[PendingRecord], ordered_prefix: bool) -> None:
    sent = [record for wave in waves(batch, ordered_prefix=ordered_prefix) for record in wave]

    assert sorted(record.position for record in sent) == [record.position for record in batch]


@given(batches)
def test_no_wave_has_two_messages_of_a_key(batch: list[PendingRecord]) -> None:
    for wave in waves(batch, ordered_prefix=False):
        assert len({key_of(record) for record in wave}) == len(wave)


@given(batches, st.booleans())
def test_the_order_of_each_key_is_kept(batch: list[PendingRecord], ordered_prefix: bool) -> None:
    sent = [record for wave in waves(batch, ordered_prefix=ordered_prefix) for record in wave]

    for place in {key_of(record) for record in batch}:
        of_key = [record.position for record in sent if key_of(record) == place]
        assert of_key == sorted(of_key)


@given(batches)
def test_there_are_no_more_waves_than_messages_of_the_busiest_key(batch: list[PendingRecord]) -> None:
    counts = [sum(key_of(one) == place for one in batch) for place in {key_of(record) for record in batch}]

    assert len(list(waves(batch, ordered_prefix=False))) == max(counts, default=0)
