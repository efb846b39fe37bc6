"""How a box publishes on a transaction of the caller's, in either colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TypeVar

from pillarbox.channel.wakeup import Wakeup
from pillarbox.consumer.context import After, cause_of, causes_in
from pillarbox.errors import ConfigurationError
from pillarbox.message import Cause, MessageType, message_type_of
from pillarbox.outbox import Outbox, OutboxRecord, PublishOptions
from pillarbox.relational import RelationalStore
from pillarbox.relational.absence import says_that_tables_are_absent
from pillarbox.relational.migrations import absent_tables
from pillarbox.transaction import AsyncTx, SyncTransaction, SyncTx, Transaction, adopt, adopt_sync
from pillarbox.transaction.sqlalchemy_ import dialect_name_of

Joined = TypeVar("Joined", Transaction, SyncTransaction)


class Publisher:
    """The part of a box that needs neither open pools nor workers: it writes into the caller's transaction."""

    store: RelationalStore
    _outbox: Outbox
    _outbox_wakeup: Wakeup
    _saga_wakeup: Wakeup
    _prepared: int = 0
    """How many messages were prepared so far: where it has not grown, a transaction leaves nothing to be relayed."""

    async def publish(
        self,
        event: object,
        /,
        *,
        tx: AsyncTx,
        key: str | None = None,
        delay: timedelta | None = None,
        headers: Mapping[str, str] | None = None,
        after: After = (),
    ) -> Cause:
        """Publish ``event`` when ``tx`` commits; every consumer subscribed to its topic gets it.

        The order of a key is the order in which transactions publish to it: the key is locked until ``tx`` ends, so
        publish last, or several at once with ``publish_all``.

        Args:
            event: an object of a class declared with ``@event``.
            tx: the caller's open transaction; it stays the caller's to commit.
            key: overrides the key that the class declares.
            delay: holds the event back; its place in the key's order is its due time.
            headers: headers of the caller's own.
            after: messages that come before it, for consumers that keep the order of causes: what ``publish``
                returned, or the context of one that is handled.

        Returns:
            What was published, for the ``after=`` of others.

        Raises:
            NoTransactionError: ``tx`` has no open transaction; nothing was written.
            InvalidMessageError: the event cannot be published as it is; nothing was written.
            MissingKeyError: its key is None; flush first, or give ``key=``; nothing was written.
            SchemaVersionError: the database has no tables of Pillarbox.
        """
        options = PublishOptions(key=key, delay=delay, headers=headers or {}, after=causes_in(after))
        record = self._prepare(event, "event", options)
        await self._append(adopt(tx), [record])
        return cause_of(record.message)

    async def send(
        self,
        command: object,
        /,
        *,
        tx: AsyncTx,
        key: str | None = None,
        delay: timedelta | None = None,
        headers: Mapping[str, str] | None = None,
        after: After = (),
    ) -> Cause:
        """Send ``command`` when ``tx`` commits; exactly one consumer group gets it. The rest is as with ``publish``."""
        options = PublishOptions(key=key, delay=delay, headers=headers or {}, after=causes_in(after))
        record = self._prepare(command, "command", options)
        await self._append(adopt(tx), [record])
        return cause_of(record.message)

    async def publish_all(self, messages: Sequence[object], /, *, tx: AsyncTx) -> None:
        """Publish events and send commands, in this order, in few statements; keys are locked in sorted order.

        Raises:
            NoTransactionError, InvalidMessageError, MissingKeyError: as with ``publish``; none of them was written.
            ConfigurationError: ``messages`` is no sequence; nothing was written.
        """
        await self._append(adopt(tx), self._prepare_all(messages))

    def publish_sync(
        self,
        event: object,
        /,
        *,
        tx: SyncTx,
        key: str | None = None,
        delay: timedelta | None = None,
        headers: Mapping[str, str] | None = None,
        after: After = (),
    ) -> Cause:
        """Do what ``publish`` does, for a synchronous transaction."""
        options = PublishOptions(key=key, delay=delay, headers=headers or {}, after=causes_in(after))
        record = self._prepare(event, "event", options)
        self._append_sync(adopt_sync(tx), [record])
        return cause_of(record.message)

    def send_sync(
        self,
        command: object,
        /,
        *,
        tx: SyncTx,
        key: str | None = None,
        delay: timedelta | None = None,
        headers: Mapping[str, str] | None = None,
        after: After = (),
    ) -> Cause:
        """Do what ``send`` does, for a synchronous transaction."""
        options = PublishOptions(key=key, delay=delay, headers=headers or {}, after=causes_in(after))
        record = self._prepare(command, "command", options)
        self._append_sync(adopt_sync(tx), [record])
        return cause_of(record.message)

    def publish_all_sync(self, messages: Sequence[object], /, *, tx: SyncTx) -> None:
        """Do what ``publish_all`` does, for a synchronous transaction."""
        self._append_sync(adopt_sync(tx), self._prepare_all(messages))

    async def _append(self, tx: Transaction, records: Sequence[OutboxRecord]) -> None:
        try:
            await self._joined(tx).run(self._outbox.append(records))
        except Exception as error:
            if says_that_tables_are_absent(error):
                raise absent_tables() from error
            raise

    def _append_sync(self, tx: SyncTransaction, records: Sequence[OutboxRecord]) -> None:
        try:
            self._joined(tx).run(self._outbox.append(records))
        except Exception as error:
            if says_that_tables_are_absent(error):
                raise absent_tables() from error
            raise

    def _joined(self, tx: Joined) -> Joined:
        """Return ``tx``, unless no relay of this box would ever see what is written there.

        Raises:
            ConfigurationError: its database is of another kind than the box's store.
        """
        if tx.dialect_name != dialect_name_of(self.store.engine.sync_engine):
            raise ConfigurationError(
                f"the transaction is one of {tx.dialect_name}, and the box's store is {self.store.name}: nothing would "
                "ever be read there; publish in a transaction of the store, or with the box of that database"
            )
        return tx

    def _committed(self, *, since: int) -> None:
        """Wake whoever has work from a transaction that began when ``since`` messages were prepared."""
        if self._prepared != since:
            self._outbox_wakeup.ring()
        self._saga_wakeup.ring()

    def _prepare(self, payload: object, wanted: str, options: PublishOptions) -> OutboxRecord:
        declared: MessageType = message_type_of(type(payload))
        if declared.kind != wanted:
            verb = "publish" if declared.kind == "event" else "send"
            raise ConfigurationError(
                f"{type(payload).__qualname__} is declared as {declared.kind} {declared.name!r}; use {verb}() for it"
            )
        self._prepared += 1
        return self._outbox.prepare(payload, options=options)

    def _prepare_all(self, messages: Sequence[object]) -> list[OutboxRecord]:
        _check_sequence(messages)
        self._prepared += len(messages)
        return [self._outbox.prepare(message) for message in messages]


def _check_sequence(messages: object) -> None:
    if not isinstance(messages, Sequence):
        raise ConfigurationError(
            f"{type(messages).__qualname__} is no sequence of messages, whose order publish_all keeps; pass a list"
        )
