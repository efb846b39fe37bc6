from __future__ import annotations

import pytest

from pillarbox.message import Message
from pillarbox.relay.log_reader import LogEntry, LogTransaction
from pillarbox.relay.reader import PendingRecord
from pillarbox.stores.postgresql.sight import Sight

FIRST_ROUND = Sight.of("100:110:103,105")
THIRD_ROUND = Sight.of(f"{2 * 2**32 + 100}:{2 * 2**32 + 110}:{2 * 2**32 + 103}")
JUST_TURNED = Sight.of(f"{2**32 - 5}:{2**32 + 5}:{2**32 - 3}")


@pytest.mark.parametrize(
    ("sight", "xid", "is_seen"),
    [
        (FIRST_ROUND, 99, True),
        (FIRST_ROUND, 102, True),
        (FIRST_ROUND, 103, False),
        (FIRST_ROUND, 109, True),
        (FIRST_ROUND, 110, False),
        (FIRST_ROUND, 5000, False),
        (THIRD_ROUND, 99, True),
        (THIRD_ROUND, 103, False),
        (THIRD_ROUND, 104, True),
        (THIRD_ROUND, 110, False),
        (THIRD_ROUND, 2**32 - 10, True),
        (JUST_TURNED, 2**32 - 6, True),
        (JUST_TURNED, 2**32 - 3, False),
        (JUST_TURNED, 2**32 - 2, True),
        (JUST_TURNED, 4, True),
        (JUST_TURNED, 5, False),
    ],
)
def test_a_snapshot_sees_what_had_ended(sight: Sight, xid: int, is_seen: bool) -> None:
    assert sight.sees(xid) is is_seen


def test_records_are_seen_up_to_the_first_whose_transaction_is_under_way() -> None:
    entries = [_entry(xid) for xid in (101, 101, 102, 103, 104)]

    assert FIRST_ROUND.seen(entries) == 3


def test_a_record_from_the_table_is_seen() -> None:
    entry = LogEntry(_entry(1).record, 0, None, True)

    assert FIRST_ROUND.seen([entry]) == 1


def _entry(xid: int) -> LogEntry:
    message = Message(id="m", type="t", destination="topic:t", key=None, content_type="", headers={}, body=b"")
    record = PendingRecord(position=1, slot=0, held=False, message=message)
    return LogEntry(record, 1, LogTransaction(xid, 1, 0), in_table=True)
