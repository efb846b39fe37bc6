"""A handler fails until its attempts are used up; the key waits; then the letter is replayed, and order is kept.

Needs nothing but Python.
"""

import asyncio
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Retry, event
from pillarbox.observe import AttemptFailed, Event, MessageDead, MessageHandled, MessageHeld


@event("account.changed", key="account")
@dataclass(frozen=True)
class AccountChanged:
    account: str
    change: int


class Watch:
    """Is told what happens, after it is durable."""

    def __init__(self) -> None:
        self.dead, self.held, self.handled = asyncio.Event(), asyncio.Event(), asyncio.Semaphore(0)

    def notice(self, event: Event, /) -> None:
        match event:
            case AttemptFailed():
                print(f"attempt {event.attempt} failed with {event.error_type}")
            case MessageDead():
                print(f"dead after {event.attempts} attempts: {event.reason}")
                self.dead.set()
            case MessageHeld():
                print("the next message of this account waits")
                self.held.set()
            case MessageHandled():
                self.handled.release()
            case _:
                pass


box = Pillarbox("bank", store="memory://")
watch = Watch()
box.observe(watch)


@box.on(AccountChanged, retry=Retry(attempts=2, immediate=1))
async def book(change: AccountChanged, tx: AsyncConnection) -> None:
    await tx.execute(
        text("UPDATE accounts SET balance = balance + :change WHERE name = :account"),
        {"change": change.change, "account": change.account},
    )
    print(f"{change.account} {change.change:+}")


async def publish(*changes: AccountChanged) -> None:
    async with box.transaction() as tx:
        await box.publish_all(changes, tx=tx)


async def main() -> None:
    async with box.running():
        await publish(AccountChanged("ann", 100))  # there is no table yet: this fails
        await watch.dead.wait()
        await publish(AccountChanged("ann", -30))  # must not overtake
        await watch.held.wait()

        (letter,) = await box.dead_letters.list()
        print(f"the letter: {letter.message.type} {letter.message.body.decode()}")
        async with box.transaction() as tx:
            await tx.execute(text("CREATE TABLE accounts (name TEXT, balance INTEGER)"))
            await tx.execute(text("INSERT INTO accounts VALUES ('ann', 0)"))

        await box.dead_letters.replay(letter.id, by="you")
        for _ in range(2):
            await watch.handled.acquire()
        async with box.transaction() as tx:
            print(f"balance {await tx.scalar(text('SELECT balance FROM accounts'))}")


asyncio.run(main())
