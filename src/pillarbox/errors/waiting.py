"""What waiting may help against, or reading again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.errors.kinds import ConflictError, TransientError

if TYPE_CHECKING:
    from datetime import timedelta


IS_IT_THERE = "check that it runs and can be reached"
DOES_IT_KNOW_US = f"{IS_IT_THERE}, and that its URL names a user, a password and a database that it knows"


class BrokerUnavailableError(TransientError, ConnectionError):
    """The broker cannot be reached or did not answer in time; what was not confirmed may have arrived.

    Attributes:
        reason: What went wrong, without credentials.
    """

    def __init__(self, *, broker: str, reason: str, remedy: str = IS_IT_THERE) -> None:
        super().__init__(f"broker {broker} is unavailable: {reason}; {remedy}")
        self.broker = broker
        self.reason = reason


class LogBrokenError(TransientError):
    """The database's log cannot be read on from where the relay was; it is healed when it is opened again.

    Attributes:
        slot: The replication slot.
        reason: What the database says.
    """

    def __init__(self, *, slot: str, reason: str) -> None:
        super().__init__(f"the log cannot be read on through the replication slot {slot!r}: {reason}")
        self.slot = slot
        self.reason = reason


class StoreUnavailableError(TransientError, ConnectionError):
    """The database cannot be reached or dropped the connection; an unconfirmed commit may have happened.

    Attributes:
        reason: What went wrong.
    """

    def __init__(self, *, store: str, reason: str, remedy: str = DOES_IT_KNOW_US) -> None:
        super().__init__(f"store {store} is unavailable: {reason}; {remedy}")
        self.store = store
        self.reason = reason


class ThrottledError(TransientError):
    """The other side asked to slow down; raise it in a handler to choose the delay.

    Attributes:
        retry_after: How long to wait; ``None`` leaves it to the retry policy.
    """

    def __init__(self, message: str, /, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DependencyDownError(ThrottledError):
    """What a handler calls is down; raise it in a handler to open the breaker of what it needs, at once.

    Attributes:
        retry_after: How long it will be down, if it says so; ``None`` leaves that to the breaker.
    """


class LeaseLostError(ConflictError):
    """A lease ran out or was taken over; what was to be written under it was not.

    Attributes:
        token: The fencing token that is no longer valid.
    """

    def __init__(self, *, lease: str, token: int | str) -> None:
        super().__init__(
            f"the lease of {lease} with token {token} is no longer ours; stop the work done under it and lease it again"
        )
        self.lease = lease
        self.token = token
