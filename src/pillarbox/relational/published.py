"""Published records that are kept, in SQL: in a table of their own, or behind the cursor of a sequence relay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Executable,
    String,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    delete,
    exists,
    func,
    or_,
    select,
)

from pillarbox.outbox import KeptRecords, PublishedRecords, bucket_for
from pillarbox.relational.expressions import any_of, insert_into, is_passed, micros, now_us, position_list
from pillarbox.relational.outbox import KeyLocks
from pillarbox.relational.rows import RECORD_COLUMNS, columns
from pillarbox.relational.tables import outbox, outbox_cursor, outbox_cursor_history, outbox_published
from pillarbox.transaction import Execute, Program, Row

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
AT = position_list("positions")
UP_TO = bindparam("up_to", type_=BigInteger)
_COPIED = RECORD_COLUMNS[:-1]
"""What a republished record keeps: all but when it was created."""


NOW = select(now_us())
REMEMBER = (
    insert_into(outbox_cursor_history)
    .from_select(
        ["at", "since", "until", "position", "highest"],
        select(
            now_us(), outbox_cursor.c.since, outbox_cursor.c.until, outbox_cursor.c.position, outbox_cursor.c.highest
        ).where(~exists().where(outbox_cursor_history.c.at > now_us() - bindparam("every_us", type_=BigInteger))),
    )
    .on_conflict_do_nothing()
)
_MARK = (
    outbox_cursor_history.c.since,
    outbox_cursor_history.c.until,
    outbox_cursor_history.c.position,
    outbox_cursor_history.c.highest,
    outbox_cursor_history.c.at,
)
_instant = bindparam("instant", type_=BigInteger)
MARK_BEFORE = (  # primary key
    select(*_MARK).where(outbox_cursor_history.c.at <= _instant).order_by(outbox_cursor_history.c.at.desc()).limit(1)
)
MARK_AFTER = (  # primary key
    select(*_MARK).where(outbox_cursor_history.c.at >= _instant).order_by(outbox_cursor_history.c.at).limit(1)
)
CURSOR = select(
    outbox_cursor.c.since, outbox_cursor.c.until, outbox_cursor.c.position, outbox_cursor.c.highest, now_us()
)
FORGET_MARKS = delete(outbox_cursor_history).where(outbox_cursor_history.c.at < _instant)

PUBLISHED_BEFORE = (  # index on published_at
    select(outbox_published.c.position)
    .where(outbox_published.c.published_at <= _instant)
    .order_by(outbox_published.c.published_at)
    .limit(UP_TO)
    .with_for_update(skip_locked=True)
)
REMOVE_PUBLISHED = delete(outbox_published).where(any_of(outbox_published.c.position, AT))
COUNT_PUBLISHED = select(func.count()).select_from(outbox_published).where(outbox_published.c.published_at <= _instant)
IS_PUBLISHED = select(exists().where(outbox_published.c.position >= 0))


def passed_by(table: Table, prefix: str = "") -> ColumnElement[bool]:
    """Return the condition that a cursor bound as ``since``, ``until``, ``at`` and ``highest`` has passed a record."""
    return and_(
        table.c.position <= bindparam(f"{prefix}highest", type_=BigInteger),
        is_passed(
            table.c.position,
            table.c.transaction_id,
            bindparam(f"{prefix}since", type_=Text),
            bindparam(f"{prefix}until", type_=Text),
            bindparam(f"{prefix}at", type_=BigInteger),
        ),
    )


def _wanted(table: Table) -> ColumnElement[bool]:
    def matches(name: str, column: str) -> ColumnElement[bool]:
        value = cast(bindparam(name, type_=String), String)
        return or_(value.is_(None), table.c[column] == value)

    return and_(matches("of_type", "event_type"), matches("of_key", "message_key"), matches("to", "destination"))


_kept = and_(
    outbox_published.c.published_at >= bindparam("since_us", type_=BigInteger),
    outbox_published.c.published_at < bindparam("until_us", type_=BigInteger),
    _wanted(outbox_published),
)
_behind = and_(passed_by(outbox), _wanted(outbox))
_behind_later = and_(_behind, ~passed_by(outbox, "old_"))


def _chosen(table: Table, condition: ColumnElement[bool]) -> Executable:
    return (
        select(*columns(table, ("position", "destination", "message_key", "id")))
        .where(condition)
        .order_by(table.c.position)
        .limit(UP_TO)
        .with_for_update()
    )


def _again(table: Table) -> Executable:
    """Return the statement that appends the records of ``table`` at ``positions`` to the outbox, in their order."""
    chosen = select(*columns(table, _COPIED), now_us()).where(any_of(table.c.position, AT)).order_by(table.c.position)
    return insert_into(outbox).from_select(list(RECORD_COLUMNS), chosen)


CHOOSE_KEPT, COUNT_KEPT = (
    _chosen(outbox_published, _kept),
    select(func.count()).select_from(outbox_published).where(_kept),
)
CHOOSE_BEHIND, COUNT_BEHIND = _chosen(outbox, _behind), select(func.count()).select_from(outbox).where(_behind)
CHOOSE_BEHIND_LATER, COUNT_BEHIND_LATER = (
    _chosen(outbox, _behind_later),
    select(func.count()).select_from(outbox).where(_behind_later),
)
AGAIN, AGAIN_FROM_OUTBOX = _again(outbox_published), _again(outbox)
REMOVE = delete(outbox).where(any_of(outbox.c.position, AT))


class RelationalPublishedRecords(PublishedRecords):
    """Published records as rows."""

    def __init__(self, key_locks: KeyLocks | None, *, removed_by_row: Table = outbox) -> None:
        """Lock keys with ``key_locks``; remove what a cursor passed row by row from ``removed_by_row`` only."""
        self._key_locks = key_locks
        passed = passed_by(removed_by_row)
        position = removed_by_row.c.position
        self._passed = select(position).where(passed).order_by(position).limit(UP_TO).with_for_update(skip_locked=True)
        self._remove_passed = delete(removed_by_row).where(any_of(position, AT))

    def now(self) -> Program[datetime]:
        """Ask the database's clock."""
        return _instant_of((yield Execute(NOW))[0][0])

    def remember(self, *, every: timedelta) -> Program[None]:
        """Copy the cursor into its history."""
        yield Execute(REMEMBER, {"every_us": micros(every)})

    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Remove from the table of kept records, then from behind the cursor."""
        before = yield from self._before(older_than)
        old = [row[0] for row in (yield Execute(PUBLISHED_BEFORE, {"instant": before, "up_to": limit}))]
        if old:
            yield Execute(REMOVE_PUBLISHED, {"positions": old})
        mark = yield from self._mark(before, older_than)
        if mark is None or len(old) == limit:
            return len(old)
        yield Execute(FORGET_MARKS, {"instant": min(mark[4], before)})
        passed = [row[0] for row in (yield Execute(self._passed, {**_bound(mark), "up_to": limit - len(old)}))]
        if passed:
            yield Execute(self._remove_passed, {"positions": passed})
        return len(old) + len(passed)

    def count_older(self, older_than: timedelta) -> Program[int]:
        """Count in both places."""
        before = yield from self._before(older_than)
        count = int((yield Execute(COUNT_PUBLISHED, {"instant": before}))[0][0])
        mark = yield from self._mark(before, older_than)
        if mark is not None:
            count += int((yield Execute(COUNT_BEHIND, {**_bound(mark), **_ANY}))[0][0])
        return count

    def is_any_kept(self) -> Program[bool]:
        """Look in both places."""
        if (yield Execute(IS_PUBLISHED))[0][0]:
            return True
        cursor = yield Execute(CURSOR)
        return bool(cursor) and int((yield Execute(COUNT_BEHIND, {**_bound(cursor[0]), **_ANY}))[0][0]) > 0

    def count(self, wanted: KeptRecords) -> Program[int]:
        """Count in both places."""
        values = _values(wanted)
        count = int((yield Execute(COUNT_KEPT, values))[0][0])
        bounds = yield from self._bounds(wanted)
        if bounds is not None:
            statement = COUNT_BEHIND if "old_at" not in bounds else COUNT_BEHIND_LATER
            count += int((yield Execute(statement, {**_filters(wanted), **bounds}))[0][0])
        return count

    def republish(self, wanted: KeptRecords, *, limit: int) -> Program[int]:
        """Move what is oldest in both places: of one key some can have been put aside, and some not."""
        kept = yield Execute(CHOOSE_KEPT, {**_values(wanted), "up_to": limit})
        bounds = yield from self._bounds(wanted)
        behind: Sequence[Row] = ()
        if bounds is not None:
            statement = CHOOSE_BEHIND if "old_at" not in bounds else CHOOSE_BEHIND_LATER
            behind = yield Execute(statement, {**_filters(wanted), **bounds, "up_to": limit})
        rows = sorted((*kept, *behind), key=itemgetter(0))[:limit]
        positions = (yield from self._locked(rows)) if rows else []
        are_kept = {row[0] for row in kept}
        for is_kept, run in groupby(positions, are_kept.__contains__):
            these = {"positions": list(run)}
            yield Execute(AGAIN if is_kept else AGAIN_FROM_OUTBOX, these)
            yield Execute(REMOVE_PUBLISHED if is_kept else REMOVE, these)
        return len(positions)

    def _locked(self, rows: Sequence[Row]) -> Program[list[int]]:
        """Return the positions of those of ``rows`` whose keys are locked now, at least the first.

        Only for the first key is waited. Whoever waited for one while he holds others would close a circle with a
        producer that publishes in several calls; what is left out is found by the next batch.
        """
        buckets = [None if key is None else bucket_for(to, key, message_id=identity) for _, to, key, identity in rows]
        first = next((bucket for bucket in buckets if bucket is not None), None)
        if self._key_locks is None or first is None:
            return [row[0] for row in rows]
        yield Execute(self._key_locks.lock, {"buckets": [first]})
        others = sorted({bucket for bucket in buckets if bucket is not None} - {first})
        had = (yield Execute(self._key_locks.try_lock, {"buckets": others})) if others else ()
        locked = {first, None, *(bucket for (bucket,) in had)}
        return [row[0] for row, bucket in zip(rows, buckets, strict=True) if bucket in locked]

    def _before(self, older_than: timedelta) -> Program[int]:
        return int((yield Execute(NOW))[0][0]) - micros(older_than)

    def _mark(self, before: int, older_than: timedelta) -> Program[Row | None]:
        """Return where the cursor stood at the instant ``before``, or stands now when nothing is to be kept."""
        found = yield (Execute(MARK_BEFORE, {"instant": before}) if older_than else Execute(CURSOR))
        return found[0] if found else None

    def _bounds(self, wanted: KeptRecords) -> Program[dict[str, object] | None]:
        """Return the cursors between which ``wanted`` was published, in doubt wider; ``None`` when there is none."""
        upper = yield Execute(MARK_AFTER, {"instant": _micros_of(wanted.until)})
        if not upper:
            upper = yield Execute(CURSOR)
        if not upper:
            return None
        lower = yield Execute(MARK_BEFORE, {"instant": _micros_of(wanted.since)})
        return {**_bound(upper[0]), **(_bound(lower[0], "old_") if lower else {})}


_ANY: Mapping[str, object] = {"of_type": None, "of_key": None, "to": None}


def _bound(mark: Row, prefix: str = "") -> dict[str, object]:
    since, until, at, highest, _ = mark
    return {f"{prefix}since": since, f"{prefix}until": until, f"{prefix}at": at, f"{prefix}highest": highest}


def _filters(wanted: KeptRecords) -> dict[str, object]:
    return {"of_type": wanted.type, "of_key": wanted.key, "to": wanted.destination}


def _values(wanted: KeptRecords) -> dict[str, object]:
    instants = {"since_us": _micros_of(wanted.since), "until_us": _micros_of(wanted.until)}
    return {**_filters(wanted), **instants}


def _micros_of(instant: datetime) -> int:
    return micros(instant - EPOCH)


def _instant_of(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)
