"""Acts of operators in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Select, String, Text, bindparam, select

from pillarbox.audit import Act, ActStore, RecordedAct
from pillarbox.relational.expressions import insert_into, now_us
from pillarbox.relational.operator_tables import operator_acts
from pillarbox.transaction import Execute, Program

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
