"""What a message is held under."""

from hypothesis import given
from hypothesis import strategies as st

from pillarbox.holding import hold_key_of
from pillarbox.holding.record import own_hold_key
from tests.messages import message


def test_where_order_counts_a_message_is_held_with_its_key() -> None:
    assert hold_key_of(message("m1", key="a"), ordered=True) == hold_key_of(message("m2", key="a"), ordered=True)
    assert hold_key_of(message("m1", key="a"), ordered=True) != hold_key_of(message("m1", key="b"), ordered=True)


def test_where_it_does_not_a_message_is_held_alone() -> None:
    assert hold_key_of(message("m1", key="a"), ordered=False) == own_hold_key("m1")


def test_a_message_without_a_key_is_held_alone() -> None:
    assert hold_key_of(message("m1", key=None), ordered=True) == own_hold_key("m1")


def test_the_empty_key_is_a_key() -> None:
    assert hold_key_of(message("m1", key=""), ordered=True) != own_hold_key("m1")


@given(st.text(), st.text())
def test_a_key_is_never_mistaken_for_a_message(key: str, identity: str) -> None:
    assert hold_key_of(message("m1", key=key), ordered=True) != own_hold_key(identity)
