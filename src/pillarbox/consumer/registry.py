"""The port that remembers which consumers a service has had, so that none is forgotten with work pending."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from pillarbox.channel import Subscription
from pillarbox.transaction import Program


class ConsumerRegistry(Protocol):
    """The consumers of a service as the database remembers them."""

    @abstractmethod
    def rename(self, old: str, new: str) -> Program[None]:
        """Let the consumer ``new`` take over everything of ``old``: subscriptions, inbox, held and dead messages."""

    @abstractmethod
    def retire(self, consumer: str) -> Program[None]:
        """Forget ``consumer`` with everything that waits for it, which nobody wants any more; dead letters stay."""

    @abstractmethod
    def enlist(
        self,
        service: str,
        subscriptions: Sequence[Subscription],
        *,
        is_back: bool = False,
        spared: Collection[str] = (),
    ) -> Program[Mapping[str, int]]:
        """Remember the consumers of ``subscriptions``; forget those of ``service`` that are gone and have no work.

        One that another process attends to is not gone, nor is one that is ``spared``. For a process that is back,
        having been taken for dead, none is: the others may be about to come back, too.

        Returns:
            Consumer → pending messages, for those that are gone and have work pending; nobody is enlisted then.
        """

    @abstractmethod
    def attend(self, consumers: Mapping[str, Collection[str]], *, owner: str, ttl: timedelta) -> Program[bool]:
        """Note that the process ``owner`` has ``consumers``, whether they receive or not, and for ``ttl`` from now.

        Args:
            consumers: each with the types of messages that it handles.
            owner: the process.
            ttl: for how long that holds if the process ends without a word.

        Returns:
            Whether it held until now, with a third of its time to spare; if not, another process may have taken them
            for gone, or may do so before this transaction ends.
        """

    @abstractmethod
    def leave(self, consumers: Collection[str], *, owner: str) -> Program[None]:
        """Note that the process ``owner`` has ``consumers`` no longer."""

    @abstractmethod
    def types_of(self, consumer: str) -> Program[Collection[str]]:
        """Return the types that ``consumer`` handles in any process that lives, or did so a few minutes ago.

        Else what waits for the only process of its release would be lost while that starts anew.
        """

    @abstractmethod
    def elsewhere(self, service: str, here: Collection[str]) -> Program[Collection[str]]:
        """Return the consumers of ``service`` that other processes attend to, and that are not among those ``here``."""
