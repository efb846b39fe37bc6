"""Acts of operators in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Select, String, Text, bindparam, delete, select

from pillarbox.audit import Act, ActStore, Forgotten, RecordedAct
from pillarbox.deadletter.decisions import LETTER
from pillarbox.deadletter.replays import RUN
from pillarbox.relational.expressions import any_of, insert_into, micros, now_us, numbers, texts
from pillarbox.relational.operator_tables import operator_acts, replay_runs
from pillarbox.relational.tables import dead_letters
from pillarbox.transaction import Execute, Program, Row

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_act = operator_acts.c
_decode = msgspec.json.Decoder(dict[str, object]).decode

RECORD = insert_into(operator_acts).values(
    at=now_us(),
    acted_by=bindparam("by", type_=String),
    what=bindparam("verb", type_=String),
    kind=bindparam("of_kind", type_=String),
    subject=bindparam("which", type_=_act.subject.type),
    consumer=bindparam("of_consumer", type_=String),
    reason=bindparam("because", type_=Text),
    details=bindparam("more", type_=Text),
)
OLD = (  # primary key
    select(_act.position, _act.kind, _act.subject)
    .where(
        _act.position > bindparam("after", type_=BigInteger),
        _act.at < select(now_us() - bindparam("age_us", type_=BigInteger)).scalar_subquery(),
    )
    .order_by(_act.position)
    .limit(bindparam("up_to", type_=BigInteger))
    .with_for_update(skip_locked=True)
)
LETTERS_KEPT = select(dead_letters.c.position).where(any_of(dead_letters.c.position, numbers("letters")))
RUNS_KEPT = select(replay_runs.c.run).where(any_of(replay_runs.c.run, texts("runs")))
PURGE = delete(operator_acts).where(any_of(_act.position, numbers("acts")))
_FACTS = ("position", "at", "acted_by", "what", "kind", "subject", "consumer", "reason", "details")
_CONDITIONS: dict[str, ColumnElement[bool]] = {
    "of_kind": _act.kind == bindparam("of_kind", type_=String),
    "which": _act.subject == bindparam("which", type_=_act.subject.type),
}


@lru_cache(maxsize=4)
def find_statement(asked: tuple[str, ...]) -> Select[Any]:
    """Return the statement that finds acts."""
    return (
        select(*(_act[name] for name in _FACTS))
        .where(*(_CONDITIONS[name] for name in asked), _act.position > bindparam("after", type_=BigInteger))
        .order_by(_act.position)
        .limit(bindparam("up_to", type_=BigInteger))
    )


class RelationalActStore(ActStore):
    """Acts as rows."""

    def record(self, act: Act) -> Program[None]:
        """Insert."""
        yield Execute(
            RECORD,
            {
                "by": act.by,
                "verb": act.what,
                "of_kind": act.kind,
                "which": act.subject,
                "of_consumer": act.consumer,
                "because": act.reason,
                "more": msgspec.json.encode(act.details).decode(),
            },
        )

    def purge(self, older_than: timedelta, *, after: int, limit: int) -> Program[Forgotten]:
        """Choose, leave out what is about something that is kept, and delete."""
        old = yield Execute(OLD, {"after": after, "age_us": micros(older_than), "up_to": limit})
        kept = yield from _kept(old)
        gone = [position for position, kind, subject in old if (kind, subject) not in kept]
        if gone:
            yield Execute(PURGE, {"acts": gone})
        return Forgotten(len(gone), until=old[-1][0] if len(old) == limit else None)

    def find(
        self, *, kind: str | None = None, subject: str | None = None, after: int = 0, limit: int = 100
    ) -> Program[Sequence[RecordedAct]]:
        """Select by what was done to what."""
        given = {"of_kind": kind, "which": subject}
        asked = {name: value for name, value in given.items() if value is not None}
        rows = yield Execute(find_statement(tuple(asked)), {**asked, "after": after, "up_to": limit})
        return [
            RecordedAct(
                id=position,
                at=EPOCH + timedelta(microseconds=at),
                act=Act(
                    by=by,
                    what=what,
                    kind=of,
                    subject=which,
                    consumer=consumer,
                    reason=reason,
                    details=_decode(details),
                ),
            )
            for position, at, by, what, of, which, consumer, reason, details in rows
        ]


def _kept(acts: Sequence[Row]) -> Program[set[tuple[str, str]]]:
    """Return which of the letters and runs that acts are about are still there, by kind and subject."""
    letters = {int(subject) for _, kind, subject in acts if kind == LETTER and subject.isdecimal()}
    runs = {subject for _, kind, subject in acts if kind == RUN}
    kept: set[tuple[str, str]] = set()
    if letters:
        kept.update((LETTER, str(row[0])) for row in (yield Execute(LETTERS_KEPT, {"letters": sorted(letters)})))
    if runs:
        kept.update((RUN, row[0]) for row in (yield Execute(RUNS_KEPT, {"runs": sorted(runs)})))
    return kept
