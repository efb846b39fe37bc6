"""What participants have done for sagas, in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import accumulate, takewhile

from sqlalchemy import BigInteger, String, Text, UnicodeText, bindparam, delete, literal, select, text, update

from pillarbox.relational.expressions import any_of, insert_into, micros, now_us, rows_of, texts, values_of
from pillarbox.relational.saga_tables import saga_participations
from pillarbox.saga.journal import Direction
from pillarbox.saga.participant import Participation, ParticipationStore
from pillarbox.transaction import Execute, Program

MOST_CHARS = 2_000_000
"""Of answers that are written by one statement, one of them at least."""
ASKED, UNDONE = "asked", "undone"

_row = saga_participations.c
SERVICE = bindparam("of_service", type_=String)
_request = values_of(texts("requests"), Text()).c.value
_is_meant = (_row.service == SERVICE, any_of(_row.request, texts("requests")))
ENTER = (  # primary key; whoever is at the same request is waited for
    insert_into(saga_participations)
    .from_select(
        ["service", "request", "state", "changed_at"],
        select(bindparam("of_service", type_=String), _request, literal(ASKED), now_us())
        .where(text("true"))
        .order_by(_request),
    )
    .on_conflict_do_nothing()
)
LOOK = (  # primary key
    select(_row.request, _row.state, _row.done_reply, _row.undo_reply)
    .where(*_is_meant)
    .order_by(_row.request)
    .with_for_update()
)
BURY = update(saga_participations).where(*_is_meant).values(state=UNDONE, changed_at=now_us())
_given = rows_of("answers", request=Text(), reply=UnicodeText())
_is_answered = (*_is_meant, _row.request == _given.c.request)  # the names first: else all rows of the service are read
ANSWERED = {
    Direction.DO: update(saga_participations)
    .where(*_is_answered)
    .values(done_reply=_given.c.reply, changed_at=now_us()),
    Direction.UNDO: update(saga_participations)
    .where(*_is_answered)
    .values(undo_reply=_given.c.reply, changed_at=now_us()),
}
OLDEST = (  # index on (changed_at)
    select(_row.service, _row.request)
    .where(_row.changed_at < select(now_us() - bindparam("age_us", type_=BigInteger)).scalar_subquery())
    .order_by(_row.changed_at)
    .limit(bindparam("up_to", type_=BigInteger))
    .with_for_update(skip_locked=True)
)
PURGE = delete(saga_participations).where(_row.service == SERVICE, _row.request == bindparam("one", type_=String))


class RelationalParticipationStore(ParticipationStore):
    """One row for each step of a saga that this service was asked to do or undo."""

    def enter(self, service: str, requests: Sequence[str]) -> Program[Mapping[str, Participation]]:
        """Insert what is not there, then lock all."""
        asked = {"of_service": service, "requests": list(requests)}
        yield Execute(ENTER, asked)
        found = yield Execute(LOOK, asked)
        return {
            request: Participation(
                undone=state == UNDONE,
                answers={
                    direction: reply
                    for direction, reply in ((Direction.DO, done), (Direction.UNDO, undone))
                    if reply is not None
                },
            )
            for request, state, done, undone in found
        }

    def bury(self, service: str, requests: Sequence[str]) -> Program[None]:
        """Set the tombstones."""
        yield Execute(BURY, {"of_service": service, "requests": list(requests)})

    def answered(self, service: str, direction: Direction, answers: Mapping[str, str]) -> Program[None]:
        """Write the answers, large ones a few at once: MySQL takes only so much in one statement."""
        rows = [{"request": request, "reply": reply} for request, reply in answers.items()]
        while rows:
            chars = accumulate(len(row["reply"]) for row in rows)
            count = max(1, sum(1 for _ in takewhile(lambda so_many: so_many <= MOST_CHARS, chars)))
            part, rows = rows[:count], rows[count:]
            given = {"of_service": service, "requests": [row["request"] for row in part], "answers": part}
            yield Execute(ANSWERED[direction], given)

    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Lock the oldest that nobody else is at, then delete them."""
        found = yield Execute(OLDEST, {"age_us": micros(older_than), "up_to": limit})
        yield Execute(PURGE, [{"of_service": service, "one": request} for service, request in found])
        return len(found)
