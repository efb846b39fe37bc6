"""A database file with something of everything in it, and a way to run commands on it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import make_url

from pillarbox.cli import commands
from pillarbox.deadletter import Burial
from pillarbox.holding import Hold, HoldState
from pillarbox.lease import LeaseTerms
from pillarbox.message import Message
from pillarbox.outbox import record_of
from pillarbox.relational import RelationalStore
from pillarbox.relay.reader import Aside
from pillarbox.stores.sqlite import sqlite_store
from pillarbox.transaction import Program

T = TypeVar("T")
CONSUMER = "shop/notify"
RELAY = LeaseTerms(scope="relay", ttl=timedelta(minutes=5))


class Shell:
    """Runs the command line in this process, on one store."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *arguments: str, store: bool = True) -> Result:
        """Run ``pillarbox arguments``, with ``--store`` unless told otherwise."""
        where = ("--store", self.url) if store else ()
        return CliRunner().invoke(commands, [*arguments, *where], prog_name="pillarbox")

    def text(self, *arguments: str) -> str:
        """Run a command that must succeed and return what it printed."""
        done = self(*arguments)
        assert done.exit_code == 0, done.output
        return done.output

    def json(self, *arguments: str) -> Any:
        """Run a command that must succeed with ``--json`` and return its value."""
        return json.loads(self.text(*arguments, "--json"))

    def run(self, *programs: Callable[[RelationalStore], Program[T]]) -> list[T]:
        """Run programs on the store, each in its transaction."""

        async def work() -> list[T]:
            async with opened(self.url) as store:
                return [await store.run(program(store)) for program in programs]

        return asyncio.run(work())


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RelationalStore]:
    store = sqlite_store(make_url(url))
    try:
        yield store
    finally:
        await store.close()


def message(identity: str, key: str | None = "k", body: bytes = b"{}") -> Message:
    """Return a message to put somewhere."""
    return Message(
        id=identity,
        type="order.placed",
        destination="topic:order",
        key=key,
        content_type="application/json",
        headers={"source": "shop"},
        body=body,
    )


@pytest.fixture
def pillarbox(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """The command line on a migrated, empty database file."""
    monkeypatch.delenv("PILLARBOX_STORE", raising=False)
    shell = Shell(sqlite_url)
    shell.text("migrate")
    return shell


@pytest.fixture
def park(pillarbox: Shell) -> Callable[..., None]:
    """Parks the messages given, with the reason ``too large``."""

    def park(*messages: Message) -> None:
        def parking(store: RelationalStore) -> Program[None]:
            yield from store.outbox.append([record_of(one) for one in messages])
            tokens = (yield from store.leases.heartbeat(RELAY, "test")).tokens
            asides = [Aside(position=number, refused="too large") for number in range(1, len(messages) + 1)]
            assert len((yield from store.slots.put_aside("relay", list(tokens.values()), asides))) == len(messages)

        pillarbox.run(parking)

    return park


@pytest.fixture
def bury(pillarbox: Shell) -> Callable[..., None]:
    """Buries the messages given, each with its key blocked."""

    def bury(*messages: Message) -> None:
        def burying(store: RelationalStore) -> Program[None]:
            for one in messages:
                hold_key = f"k:{one.key}"
                burial = Burial(
                    hold_key=hold_key,
                    message=one,
                    reason="exhausted",
                    attempts=5,
                    history=(),
                    stack="Traceback: postgresql://shop:s3cret@db",
                    fingerprint="f1",
                )
                yield from store.dead_letters.bury(CONSUMER, [burial])
                yield from store.holding.hold(CONSUMER, [Hold(hold_key=hold_key, state=HoldState.BLOCKED)])

        pillarbox.run(burying)

    return bury
