"""What is said to be done where Redis was reached, and refuses."""

from __future__ import annotations

import pytest
from redis.exceptions import AuthenticationError, ConnectionError, NoPermissionError, ReadOnlyError, ResponseError

from pillarbox.brokers.redis.connection import refused


@pytest.mark.parametrize(
    ("refusal", "do"),
    [
        (ReadOnlyError("You can't write against a read only replica."), "it is a replica: name its master"),
        (AuthenticationError("Authentication required."), "give the user and password that it knows"),
        (NoPermissionError("this user has no permissions to run the 'xadd' command"), "ACL SETUSER"),
        (ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), "mend what it says"),
    ],
)
def test_a_refusal_is_followed_by_what_mends_it(refusal: Exception, do: str) -> None:
    text = str(refused(refusal))

    assert f"{refusal}; " in text
    assert do in text
    assert "can be reached" not in text


def test_of_a_server_that_is_away_it_is_said_that_it_must_run() -> None:
    assert str(refused(ConnectionError("Connection refused"))).endswith("check that it runs and can be reached")
