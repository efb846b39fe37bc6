"""What ``apply_once`` has recorded, in SQL."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import BigInteger, String, bindparam, delete, select

from pillarbox.idempotency import OperationStore
from pillarbox.relational.expressions import any_of, micros, now_us, texts
from pillarbox.relational.tables import applied_operations
from pillarbox.transaction import Execute, Program

_kept_since = select(now_us() - bindparam("age_us", type_=BigInteger)).scalar_subquery()  # once, for an index's sake
OLDEST = (  # index on applied_at
    select(applied_operations.c.scope, applied_operations.c.operation_id)
    .where(applied_operations.c.applied_at < _kept_since)
    .order_by(applied_operations.c.applied_at)
    .limit(bindparam("up_to", type_=BigInteger))
    .with_for_update(skip_locked=True)
)
PURGE = delete(applied_operations).where(  # primary key
    applied_operations.c.scope == bindparam("of_scope", type_=String),
    any_of(applied_operations.c.operation_id, texts("ids")),
)


class RelationalOperationStore(OperationStore):
    """Applied operations, each a row whose primary key is (scope, operation id)."""

    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Lock the oldest that nobody else is at, then delete them scope by scope."""
        found = yield Execute(OLDEST, {"age_us": micros(older_than), "up_to": limit})
        by_scope: dict[str, list[str]] = {}
        for scope, operation in found:
            by_scope.setdefault(scope, []).append(operation)
        for scope, operations in by_scope.items():
            yield Execute(PURGE, {"of_scope": scope, "ids": operations})
        return len(found)
