"""Records from the log put aside: copied from the table where they have a row, else written from what the log said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import BigInteger, String, Text, bindparam

from pillarbox.message import number_of
from pillarbox.outbox import record_of
from pillarbox.relational.expressions import insert_into, now_us
from pillarbox.relational.outbox_held import HAS_PARKED, HELD, HOLD_KEY, PARKED, RELEASED, put_aside
from pillarbox.relational.rows import RECORD_COLUMNS, record_values
from pillarbox.relational.tables import outbox_held
from pillarbox.relay.log_reader import LogEntry
from pillarbox.relay.reader import Aside, Key
from pillarbox.transaction import Execute, Program

_COPIED = [name for name in RECORD_COLUMNS if name != "created_at"]
HOLD_RECORD = (  # primary key; a record may come out of the log again after it was put aside
    insert_into(outbox_held)
    .values(
        position=bindparam("position", type_=BigInteger),
        **{name: bindparam(name, type_=outbox_held.c[name].type) for name in _COPIED},
        created_at=bindparam("created_at", type_=BigInteger),
        state=bindparam("state", type_=String),
        reason=bindparam("reason", type_=Text),
        parked_at=now_us(),
    )
    .on_conflict_do_nothing()
)


def set_aside(scope: str, tokens: Sequence[int], done: Sequence[LogEntry], asides: Sequence[Aside]) -> Program[None]:
    """Put the records that ``asides`` names behind what is held of their keys.

    One that was to go behind others whose hold has ended meanwhile opens a hold of its own and leaves as a released
    record: the log will not bring it again.
    """
    opening = {aside.position: replace(aside, is_behind=False) for aside in asides}
    chosen = [entry for entry in done if entry.record.position in opening]
    in_table = [opening[entry.record.position] for entry in chosen if entry.in_table]
    moved = (yield from put_aside(scope, tokens, in_table)) if in_table else frozenset[int]()
    for key, entries in _by_key([entry for entry in chosen if entry.record.position not in moved]).items():
        mine = [opening[entry.record.position] for entry in entries]
        blocked = any(aside.refused is not None for aside in mine)
        if key is not None:
            named = {"of_destination": key[0], "of_key": key[1]}
            yield Execute(HOLD_KEY, named)
            blocked = blocked or bool((yield Execute(HAS_PARKED, named))[0][0])
        for entry, aside in zip(entries, mine, strict=True):
            is_held = blocked and key is not None
            state = PARKED if aside.refused is not None else HELD if is_held else RELEASED
            yield Execute(HOLD_RECORD, {**_columns(entry), "state": state, "reason": aside.refused})


def _by_key(entries: Sequence[LogEntry]) -> dict[Key | None, list[LogEntry]]:
    """Group ``entries`` by their keys, sorted as the keys are locked; those without a key last."""
    keyed: dict[Key | None, list[LogEntry]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.record.message.key is None, _key_of(entry) or ("", ""))):
        keyed.setdefault(_key_of(entry), []).append(entry)
    return keyed


def _key_of(entry: LogEntry) -> Key | None:
    message = entry.record.message
    return None if message.key is None else (message.destination, message.key)


def _columns(entry: LogEntry) -> dict[str, object]:
    number = number_of(entry.record.message)
    committed_at = 0 if entry.transaction is None else entry.transaction.committed_at
    return {
        **record_values(record_of(entry.record.message)),
        "position": entry.record.position,
        "created_at": committed_at,
        "key_sequence": None if number is None else number.number,
    }
