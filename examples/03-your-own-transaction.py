"""Publish from code that knows only sqlite3; another part of the program handles. Needs nothing but Python."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from dataclasses import dataclass

from sqlalchemy import Connection, text

from pillarbox import Context, Pillarbox, command


@command("mail.send", queue="mail", key="address")
@dataclass(frozen=True)
class SendMail:
    address: str
    subject: str


box = Pillarbox("newsletter", store="sqlite:///newsletter.db")
sent = threading.Event()


def subscribe(database: sqlite3.Connection, address: str) -> None:
    """Your code, as it was: plain sqlite3, and a transaction of its own."""
    with database:  # commits, or rolls back
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO subscribers VALUES (?)", (address,))
        box.send_sync(SendMail(address, "Welcome"), tx=database)


@box.on(SendMail)
def send_mail(mail: SendMail, tx: Connection, ctx: Context) -> None:
    """A plain function runs in a thread, with a plain connection."""
    known = tx.scalar(text("SELECT count(*) FROM subscribers WHERE address = :a"), {"a": mail.address})
    print(f"{mail.subject} to {mail.address} ({known} subscriber, attempt {ctx.attempt})")
    sent.set()


async def main() -> None:
    async with box:
        pass  # opening the box once creates its tables in the file
    with closing(sqlite3.connect("newsletter.db")) as database:
        database.execute("CREATE TABLE subscribers (address TEXT PRIMARY KEY)")
        subscribe(database, "ann@example.org")
        try:
            subscribe(database, "ann@example.org")
        except sqlite3.IntegrityError:
            print("subscribed already: rolled back, no mail")
    async with box.running():
        await asyncio.to_thread(sent.wait)


asyncio.run(main())
