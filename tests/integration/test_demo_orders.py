"""What the demo takes for an order, and what it refuses."""

import csv
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from pillarbox.demo.messages import OrderPlaced
from pillarbox.demo.order_file import OrderFileError, Refusal, read_orders

ROOT = Path(__file__).resolve().parents[2]
GOOD = {
    "order_id": "o-1",
    "customer": "Zoë 👩‍🚀 שרה",
    "priority": "EXPRESS",
    "sku": "TEAPOT-01",
    "quantity": 2,
    "total": "12.50",
    "placed_at": "2025-03-01T09:15:00+01:00",
}
EXPECTED = OrderPlaced("o-1", "Zoë 👩‍🚀 שרה", "EXPRESS", "TEAPOT-01", 2, 1250)


def line_of(**changes: object) -> str:
    """Return the good order as a line, with ``changes``; ``None`` leaves a field out."""
    fields = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    return json.dumps(fields)


def read(path: Path, content: str | bytes) -> list[OrderPlaced | Refusal]:
    """Return what a file with ``content`` holds."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_orders(path))


def only_refusal(path: Path, content: str | bytes) -> Refusal:
    """Return the refusal of the only line of ``content``."""
    (refusal,) = read(path, content)
    assert isinstance(refusal, Refusal), refusal
    return refusal


def test_a_line_of_json_becomes_an_order(tmp_path: Path) -> None:
    assert read(tmp_path / "orders.jsonl", line_of() + "\n") == [EXPECTED]


def test_a_total_may_be_given_in_cents(tmp_path: Path) -> None:
    assert read(tmp_path / "orders.jsonl", line_of(total=None, total_cents=1250)) == [EXPECTED]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (line_of(order_id=None), "no order_id"),
        (line_of(order_id=""), "no order_id"),
        (line_of(order_id=7), "order_id is no text"),
        (line_of(order_id="x" * 65), "order_id too long"),
        (line_of(order_id="o\0"), "order_id holds a control character"),
        (line_of(customer=None), "no customer"),
        (line_of(customer="   "), "no customer"),
        (line_of(customer="half \ud83d"), "customer holds a lone surrogate"),
        (line_of(priority="URGENT"), "unknown priority"),
        (line_of(priority=["EXPRESS"]), "unknown priority"),
        (line_of(quantity=0), "quantity out of range"),
        (line_of(quantity=1.5), "quantity out of range"),
        (line_of(quantity=True), "quantity is no number"),
        (line_of(total=None), "no total"),
        (line_of(total="-1.00"), "negative total"),
        (line_of(total=float("nan")), "total is not finite"),
        (line_of(total=float("inf")), "total is not finite"),
        (line_of(total="0"), "total out of range"),
        (line_of(total="1e40"), "total out of range"),
        (line_of(total="1.005"), "total in fractions of a cent"),
        (line_of(total="twelve"), "total is no number"),
        (line_of(total={}), "total is no number"),
        (line_of(placed_at="2025-03-01T09:15:00"), "placed_at is naive"),
        (line_of(placed_at="yesterday"), "placed_at is no instant"),
        (line_of()[:-20], "malformed JSON"),
        ("[" * 10_000, "malformed JSON"),
        ("[1]", "no JSON object"),
        ("  ", "empty line"),
        (line_of(customer="long " * 10_000), "too large"),
        (b'{"order_id": "\xff"}', "not UTF-8"),
    ],
)
def test_a_line_that_is_no_order_is_refused_with_its_reason(tmp_path: Path, line: str | bytes, kind: str) -> None:
    assert only_refusal(tmp_path / "orders.jsonl", line).kind == kind


def test_a_refusal_names_its_line_and_the_lines_around_it_are_read(tmp_path: Path) -> None:
    lines = [line_of(order_id="o-1"), line_of(customer="long " * 10_000), line_of(order_id="o-2"), "{", line_of()]

    found = read(tmp_path / "orders.jsonl", "\n".join(lines))

    assert [one.order_id if isinstance(one, OrderPlaced) else (one.line, one.kind) for one in found] == [
        "o-1",
        (2, "too large"),
        "o-2",
        (4, "malformed JSON"),
        (5, "duplicate order id"),
    ]


def test_a_csv_file_holds_the_same_orders(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, GOOD.keys())
        writer.writeheader()
        writer.writerow(GOOD)
        writer.writerow({**GOOD, "order_id": "o-2", "customer": 'two\nlines, "quoted"'})
        writer.writerow({**GOOD, "order_id": "o-3", "total": "NaN"})
        file.write("o-4,too,few\n")

    found = list(read_orders(path))

    assert found[0] == EXPECTED
    assert [(one.line, one.kind) for one in found[1:] if isinstance(one, Refusal)] == [
        (4, "customer holds a control character"),
        (5, "total is not finite"),
        (6, "malformed CSV"),
    ]


def test_bytes_that_are_no_utf8_are_refused_in_csv(tmp_path: Path) -> None:
    content = b"order_id,customer,priority,sku,quantity,total\no-1,\xff\xfe,EXPRESS,A,1,1\n"

    assert only_refusal(tmp_path / "orders.csv", content).kind == "customer holds a lone surrogate"


def test_a_csv_file_without_the_columns_of_an_order_is_refused_as_a_whole(tmp_path: Path) -> None:
    with pytest.raises(OrderFileError, match=r"line 1: no column customer, .*total"):
        read(tmp_path / "orders.csv", "order_id,name\no-1,Ada\n")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OrderFileError, match="No such file"):
        list(read_orders(tmp_path / "nowhere.jsonl"))


def test_the_shipped_file_holds_a_thousand_orders_and_every_way_to_be_none() -> None:
    found = list(read_orders(Path(str(files("pillarbox.demo") / "orders.jsonl"))))

    orders = [one for one in found if isinstance(one, OrderPlaced)]
    kinds = {one.kind for one in found if isinstance(one, Refusal)}
    assert len(orders) >= 1_000
    assert {order.priority for order in orders} == {"EXPRESS", "STANDARD", "ECONOMY"}
    assert len(kinds) == 12
    assert 0.01 < 1 - len(orders) / len(found) < 0.03


def test_the_shipped_file_is_what_its_script_writes() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "make_demo_orders.py"), "--check"], check=False)

    assert done.returncode == 0
