"""The outbox as a sequence relay sees it on SQLite: one writer at a time, so a position is a cursor."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, bindparam, func, select

from pillarbox.relational.cursor import advance, load, retire
from pillarbox.relational.rows import message_of, record_message_columns
from pillarbox.relational.tables import outbox
from pillarbox.relay.reader import Aside, PendingRecord
from pillarbox.relay.sequence import Cursor, SequenceReader, Window
from pillarbox.transaction import Execute, Program

BEGINNING = "0"
END_OF_OUTBOX = select(func.max(outbox.c.position))
READ = (  # primary key
    select(outbox.c.position, outbox.c.slot, *record_message_columns(outbox))
    .where(outbox.c.position > bindparam("after", type_=BigInteger))
    .order_by(outbox.c.position)
    .limit(bindparam("up_to", type_=BigInteger))
)


class SqliteSequenceReader(SequenceReader):
    """Reads by position; a window is what lies between two of them."""

    def load(self, scope: str, tokens: Sequence[int]) -> Program[Cursor | None]:
        """Return the cursor; a file is a cluster of its own, wherever it is copied."""
        return load(scope, tokens, beginning=BEGINNING, system_id="")

    def rebase(self, scope: str, tokens: Sequence[int], *, keep: bool, limit: int) -> Program[bool]:
        """Remove what the cursor passed."""
        return retire(limit, keep=keep)

    def reopen(self, cursor: Cursor) -> Program[Window]:
        """Go on in the window; records that came since are in it too."""
        yield from ()
        return Window(since=cursor.since, until=cursor.until, floor=int(cursor.since))

    def following(self, since: str) -> Program[Window | None]:
        """Look whether there is a record beyond ``since``."""
        last = (yield Execute(END_OF_OUTBOX))[0][0]
        if last is None or last <= int(since):
            return None
        return Window(since=since, until=str(last), floor=int(since))

    def read(self, window: Window, *, after: int, limit: int) -> Program[Sequence[PendingRecord]]:
        """Read on behind the last position."""
        rows = yield Execute(READ, {"after": max(after, window.floor), "up_to": limit})
        return [
            PendingRecord(position=row[0], slot=row[1], held=False, message=message_of(row[2:]))
            for row in rows
            if row[0] <= int(window.until)
        ]

    def advance(
        self, scope: str, tokens: Sequence[int], *, old: Cursor, new: Cursor, asides: Sequence[Aside]
    ) -> Program[bool]:
        """Compare and set."""
        return advance(scope, tokens, old=old, new=new, asides=asides)
