"""Reads orders from JSON lines or CSV; what is no order is refused with its line and reason, never half read.

Guarantee: every line becomes an order or a refusal.
Not promised: that the same order in two files is noticed.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from pillarbox.demo.messages import OrderPlaced

MAX_LINE_BYTES: Final = 16_384
MAX_ID_CHARS, MAX_NAME_CHARS, MAX_SKU_CHARS = 64, 200, 64
MAX_CENTS: Final = 10**13
MAX_QUANTITY: Final = 1_000_000
PRIORITIES: Final = ("EXPRESS", "STANDARD", "ECONOMY")
FIELDS: Final = ("order_id", "customer", "priority", "sku", "quantity", "total", "placed_at")


class OrderFileError(Exception):
    """The file as a whole cannot be read as orders."""


class RefusedError(ValueError):
    """A line is no order.

    Attributes:
        kind: the reason in few words, the same for all lines that are wrong in the same way.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        """Say what is wrong."""
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A line that was refused."""

    line: int
    kind: str
    reason: str


def read_orders(path: Path) -> Generator[OrderPlaced | Refusal, None, None]:
    """Yield what each line of ``path`` is; a name that ends in ``.csv`` is read as CSV, any other as JSON lines.

    Raises:
        OrderFileError: it cannot be opened, or is a CSV file without the columns of an order.
    """
    seen: set[str] = set()
    try:
        for line, fields in _csv_records(path) if path.suffix.lower() == ".csv" else _json_records(path):
            try:
                yield _order(fields, seen)
            except RefusedError as refused:
                yield Refusal(line=line, kind=refused.kind, reason=str(refused))
    except OSError as error:
        raise OrderFileError(f"{path} cannot be read: {error.strerror}") from error


def _json_records(path: Path) -> Iterator[tuple[int, dict[str, Any] | RefusedError]]:
    for number, raw in _lines(path):
        try:
            yield number, _json_object(raw)
        except RefusedError as refused:
            yield number, refused


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines of a file; ``None`` stands for one that is too large to be kept in memory."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            too_large = len(line) > MAX_LINE_BYTES
            while too_large and line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            yield number, None if too_large else line


def _json_object(raw: bytes | None) -> dict[str, Any]:
    if raw is None:
        raise RefusedError("too large", f"more than {MAX_LINE_BYTES} bytes")
    if not raw.strip():
        raise RefusedError("empty line")
    try:
        value: object = json.loads(raw.decode(), parse_float=Decimal)
    except UnicodeDecodeError as error:
        raise RefusedError("not UTF-8", f"byte {error.start + 1} of the line") from error
    except (ValueError, RecursionError) as error:
        raise RefusedError("malformed JSON", str(error)) from error
    if not isinstance(value, dict):
        raise RefusedError("no JSON object", f"a {type(value).__name__}")
    return value  # pyright: ignore[reportUnknownVariableType]  # its fields are checked one by one


def _csv_records(path: Path) -> Iterator[tuple[int, dict[str, Any] | RefusedError]]:
    """Yield CSV records by the names of the first line; bytes that are no UTF-8 become lone surrogates."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        header = _csv_header(path, reader)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield reader.line_num, RefusedError("malformed CSV", str(error))
                continue
            if sum(map(len, row)) > MAX_LINE_BYTES:
                yield reader.line_num, RefusedError("too large", f"more than {MAX_LINE_BYTES} characters")
            elif not row:
                yield reader.line_num, RefusedError("empty line")
            elif len(row) != len(header):
                detail = f"{len(row)} fields, the first line names {len(header)}"
                yield reader.line_num, RefusedError("malformed CSV", detail)
            else:
                yield reader.line_num, dict(zip(header, row, strict=True))


def _csv_header(path: Path, reader: Iterable[list[str]]) -> list[str]:
    try:
        names = next(iter(reader), list[str]())
    except csv.Error as error:
        raise OrderFileError(f"{path}, line 1: {error}") from error
    header = [name.strip() for name in names]
    required = [name for name in FIELDS if name not in ("placed_at", "total")]
    missing = [name for name in required if name not in header]
    if "total" not in header and "total_cents" not in header:
        missing.append("total")
    if missing:
        raise OrderFileError(f"{path}, line 1: no column {', '.join(missing)}; it must name {','.join(FIELDS)}")
    return header


def _order(fields: dict[str, Any] | RefusedError, seen: set[str]) -> OrderPlaced:
    """Make an order of what a line holds, and remember its id.

    Raises:
        RefusedError: a field is missing or makes no sense.
    """
    if isinstance(fields, RefusedError):
        raise fields
    order_id = _text(fields, "order_id", MAX_ID_CHARS)
    _check_instant(fields.get("placed_at"))
    order = OrderPlaced(
        order_id=order_id,
        customer=_text(fields, "customer", MAX_NAME_CHARS),
        priority=_priority(fields),
        sku=_text(fields, "sku", MAX_SKU_CHARS),
        quantity=_quantity(fields.get("quantity")),
        total_cents=_cents(fields),
    )
    if order_id in seen:
        raise RefusedError("duplicate order id", order_id)
    seen.add(order_id)
    return order


def _text(fields: dict[str, Any], name: str, max_chars: int) -> str:
    value: object = fields.get(name)
    if value is None or value == "":
        raise RefusedError(f"no {name}")
    if not isinstance(value, str):
        raise RefusedError(f"{name} is no text", f"a {type(value).__name__}")
    if len(value) > max_chars:
        raise RefusedError(f"{name} too long", f"{len(value)} characters, at most {max_chars}")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise RefusedError(f"{name} holds a lone surrogate")
    if any(letter < " " or letter == "\x7f" for letter in value):
        raise RefusedError(f"{name} holds a control character")
    if not value.strip():
        raise RefusedError(f"no {name}")
    return value


def _priority(fields: dict[str, Any]) -> str:
    value: object = fields.get("priority", "STANDARD")
    if value not in PRIORITIES:
        raise RefusedError("unknown priority", f"{value!r:.40}, it is one of {', '.join(PRIORITIES)}")
    return str(value)


def _quantity(value: object) -> int:
    number = _decimal(value, "quantity")
    if number != number.to_integral_value() or not 1 <= number <= MAX_QUANTITY:
        raise RefusedError("quantity out of range", f"{value!r:.40}")
    return int(number)


def _cents(fields: dict[str, Any]) -> int:
    """Return the total in cents, from ``total`` (``"12.50"``) or ``total_cents`` (``1250``)."""
    if fields.get("total") not in (None, ""):
        cents = _decimal(fields["total"], "total") * 100
    else:
        cents = _decimal(fields.get("total_cents"), "total")
    if cents < 0:
        raise RefusedError("negative total")
    if cents == 0 or cents > MAX_CENTS:
        raise RefusedError("total out of range")
    if cents != cents.to_integral_value():
        raise RefusedError("total in fractions of a cent")
    return int(cents)


def _decimal(value: object, name: str) -> Decimal:
    if value is None or value == "":
        raise RefusedError(f"no {name}")
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        raise RefusedError(f"{name} is no number", f"{value!r:.40}")
    try:
        number = Decimal(value if isinstance(value, (int, Decimal)) else str(value))
    except InvalidOperation as error:
        raise RefusedError(f"{name} is no number", f"{value!r:.40}") from error
    if not number.is_finite():
        raise RefusedError(f"{name} is not finite")
    if number and number.adjusted() > 20:
        raise RefusedError(f"{name} out of range")
    return number


def _check_instant(value: object) -> None:
    if value is None or value == "":
        return
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        instant = None
    if instant is None:
        raise RefusedError("placed_at is no instant", f"{value!r:.40}")
    if instant.utcoffset() is None:
        raise RefusedError("placed_at is naive", "it has no time zone")
