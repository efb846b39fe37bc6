from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.errors import InternalError
from pillarbox.stores.postgresql.pgoutput import (
    Begin,
    Commit,
    Decoder,
    Insert,
    LogicalMessage,
    lsn_of,
    lsn_text,
)

OUTBOX, OTHER = 16384, 16999
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
VALUES = st.one_of(st.none(), st.binary(max_size=40))


def begin(final_lsn: int, committed_at: int, xid: int) -> bytes:
    return b"B" + struct.pack(">QqI", final_lsn, committed_at, xid)


def commit(commit_lsn: int, end_lsn: int) -> bytes:
    return b"C" + struct.pack(">BQQq", 0, commit_lsn, end_lsn, 0)


def relation(number: int, columns: list[str], *, name: str = "pillarbox_outbox") -> bytes:
    head = b"R" + struct.pack(">I", number) + b"public\0" + name.encode() + b"\0d" + struct.pack(">H", len(columns))
    return head + b"".join(b"\1" + column.encode() + b"\0" + struct.pack(">Ii", 25, -1) for column in columns)


def insert(number: int, values: list[bytes | None]) -> bytes:
    head = b"I" + struct.pack(">IcH", number, b"N", len(values))
    return head + b"".join(b"n" if one is None else b"t" + struct.pack(">I", len(one)) + one for one in values)


def message(prefix: str, content: bytes, *, flags: int = 1, lsn: int = 7) -> bytes:
    return b"M" + struct.pack(">BQ", flags, lsn) + prefix.encode() + b"\0" + struct.pack(">I", len(content)) + content


def decoder(*columns: str) -> Decoder:
    return Decoder(relation=OUTBOX, columns=columns)


@given(final_lsn=U64, committed_at=I64, xid=U32)
def test_a_beginning_tells_its_commit_its_instant_and_its_number(final_lsn: int, committed_at: int, xid: int) -> None:
    assert decoder("id").decode(begin(final_lsn, committed_at, xid)) == Begin(final_lsn, committed_at, xid)


@given(commit_lsn=U64, end_lsn=U64)
def test_an_end_tells_where_the_log_goes_on(commit_lsn: int, end_lsn: int) -> None:
    assert decoder("id").decode(commit(commit_lsn, end_lsn)) == Commit(commit_lsn, end_lsn)


@given(data=st.data(), columns=st.lists(NAMES.filter(bool), min_size=1, max_size=14, unique=True))
def test_the_wanted_columns_come_in_the_wanted_order(data: st.DataObject, columns: list[str]) -> None:
    wanted = data.draw(st.lists(st.sampled_from(columns), min_size=1, unique=True))
    values = data.draw(st.lists(VALUES, min_size=len(columns), max_size=len(columns)))
    one = decoder(*wanted)

    assert one.decode(relation(OUTBOX, columns)) is None
    decoded = one.decode(insert(OUTBOX, values))

    row = dict(zip(columns, values, strict=True))
    assert decoded == Insert(tuple(row[name] for name in wanted))


@given(prefix=NAMES, content=st.binary(max_size=60), is_transactional=st.booleans(), lsn=U64)
def test_a_logical_message_keeps_its_bytes(prefix: str, content: bytes, is_transactional: bool, lsn: int) -> None:
    sent = message(prefix, content, flags=int(is_transactional), lsn=lsn)

    assert decoder("id").decode(sent) == LogicalMessage(is_transactional, lsn, prefix, content)


def test_rows_of_other_tables_are_passed_over() -> None:
    one = decoder("id")

    assert one.decode(relation(OTHER, ["a"], name="orders")) is None
    assert one.decode(insert(OTHER, [b"1"])) is None


def test_a_table_described_anew_is_read_by_its_new_description() -> None:
    one = decoder("id", "headers")
    one.decode(relation(OUTBOX, ["id", "headers"]))

    one.decode(relation(OUTBOX, ["headers", "added", "id"]))

    assert one.decode(insert(OUTBOX, [b"{}", b"x", b"m-1"])) == Insert((b"m-1", b"{}"))


def test_an_outbox_without_a_wanted_column_is_named() -> None:
    with pytest.raises(InternalError, match="no column headers"):
        decoder("id", "headers").decode(relation(OUTBOX, ["id"]))


@pytest.mark.parametrize("kind", list("YOTUD"))
def test_kinds_that_publish_nothing_are_passed_over(kind: str) -> None:
    assert decoder("id").decode(kind.encode() + b"\0\0\0\1") is None


@pytest.mark.parametrize("kind", ["S", "E", "c", "A", "z"])
def test_an_unknown_kind_is_named(kind: str) -> None:
    with pytest.raises(InternalError, match=f"unknown kind '{kind}'"):
        decoder("id").decode(kind.encode() + b"\0\0\0\1")


def test_a_row_of_a_table_that_was_not_described_is_refused() -> None:
    with pytest.raises(InternalError, match="did not describe"):
        decoder("id").decode(insert(OUTBOX, [b"m-1"]))


@given(data=st.data())
def test_what_is_cut_short_is_refused(data: st.DataObject) -> None:
    one = decoder("id", "payload")
    one.decode(relation(OUTBOX, ["id", "payload"]))
    whole = data.draw(
        st.sampled_from(
            [begin(1, 2, 3), commit(1, 2), insert(OUTBOX, [b"m-1", b"\\x00"]), message("pillarbox.outbox", b"abc")]
        )
    )
    cut = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(InternalError):
        one.decode(whole[:cut])


@given(lsn=U64)
def test_a_place_in_the_log_survives_its_spelling(lsn: int) -> None:
    assert lsn_of(lsn_text(lsn)) == lsn


def test_places_are_spelled_as_postgresql_does() -> None:
    assert lsn_text(0x16_B374D848) == "16/B374D848"
