"""Edits of dead letters in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from sqlalchemy import BigInteger, LargeBinary, String, Text, bindparam, select, update

from pillarbox.deadletter import DeadLetterState
from pillarbox.deadletter.editing import Change, DeadLetterEdits, Edit
from pillarbox.relational.expressions import insert_into, now_us
from pillarbox.relational.operator_tables import dead_letter_edits
from pillarbox.relational.tables import dead_letters
from pillarbox.transaction import Execute, Program

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_letter = bindparam("of_letter", type_=BigInteger)
_decode_changes = msgspec.json.Decoder(tuple[Change, ...]).decode

CHANGE = (
    update(dead_letters)
    .where(
        dead_letters.c.position == _letter,
        dead_letters.c.state == DeadLetterState.DEAD.value,
        dead_letters.c.body == bindparam("old_body", type_=LargeBinary),
    )
    .values(body=bindparam("new_body", type_=LargeBinary))
    .returning(dead_letters.c.position)
)
KEEP = insert_into(dead_letter_edits).values(
    letter=_letter,
    body=bindparam("old_body", type_=LargeBinary),
    diff=bindparam("what_changed", type_=Text),
    edited_by=bindparam("by", type_=String),
    reason=bindparam("because", type_=Text),
    edited_at=now_us(),
)
EDITS = (  # index on (letter, position)
    select(
        dead_letter_edits.c.position,
        dead_letter_edits.c.body,
        dead_letter_edits.c.diff,
        dead_letter_edits.c.edited_by,
        dead_letter_edits.c.reason,
        dead_letter_edits.c.edited_at,
    )
    .where(dead_letter_edits.c.letter == _letter)
    .order_by(dead_letter_edits.c.position)
)


class RelationalDeadLetterEdits(DeadLetterEdits):
    """Earlier bodies as rows."""

    def change(
        self, letter_id: int, *, before: bytes, after: bytes, changes: Sequence[Change], by: str, reason: str
    ) -> Program[bool]:
        """Compare and set the body, then keep the earlier one."""
        if not (yield Execute(CHANGE, {"of_letter": letter_id, "old_body": before, "new_body": after})):
            return False
        told = {"what_changed": msgspec.json.encode(changes).decode(), "by": by, "because": reason}
        yield Execute(KEEP, {"of_letter": letter_id, "old_body": before, **told})
        return True

    def edits(self, letter_id: int) -> Program[Sequence[Edit]]:
        """Select by letter."""
        return [
            Edit(
                id=position,
                letter_id=letter_id,
                before=bytes(body),
                changes=_decode_changes(diff),
                by=by,
                reason=reason,
                at=EPOCH + timedelta(microseconds=at),
            )
            for position, body, diff, by, reason, at in (yield Execute(EDITS, {"of_letter": letter_id}))
        ]
