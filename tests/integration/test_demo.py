"""The demo end to end: whatever happens to it, everything is accounted for, once."""

import csv
import json
import shlex
import tempfile
from dataclasses import asdict
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, select, text
from sqlalchemy.pool import NullPool

from pillarbox.cli.main import commands
from pillarbox.demo import DemoOptions, run_demo
from pillarbox.demo.demo import first_of
from pillarbox.demo.mischief import NONE, Mischief, plan_mischief
from pillarbox.demo.reconciliation import reconcile
from pillarbox.demo.run import NOTIFIER, Orders, load_orders, play
from pillarbox.demo.services.gateway import mails_in
from pillarbox.demo.services.payment import CARD_LIMIT_CENTS
from pillarbox.demo.services.shipping import HEAVY, MOST_IN_A_PARCEL
from pillarbox.demo.shop import open_shop
from pillarbox.demo.supervisor import WorkerFailedError
from pillarbox.relational import tables
from tests import effort

SHIPPED = Path(str(files("pillarbox.demo") / "orders.jsonl"))
PROMISED = {
    "placed": int,
    "committed": int,
    "published": int,
    "suppressed": int,
    "retried": int,
    "dead_lettered": int,
    "lost": int,
    "applied_twice": int,
    "seconds": float,
}


@pytest.fixture(autouse=True)
def _temporary_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def orders_150(tmp_path: Path) -> Path:
    """The first 150 lines of the shipped file."""
    path = tmp_path / "orders.jsonl"
    path.write_bytes(SHIPPED.read_bytes())
    return first_lines(path, 150)


def first_lines(path: Path, count: int) -> Path:
    """Return a file of the first ``count`` lines of ``path``."""
    few = path.with_name(f"first-{count}.jsonl")
    with path.open(encoding="utf-8") as lines:
        few.write_text("".join(islice(lines, count)), encoding="utf-8")
    return few


def of_every_kind(folder: Path) -> Path:
    """Return a file of few orders, many of them declined, sold out or too heavy to be shipped."""
    valid = load_orders(None).valid
    declined = [order for order in valid if order.total_cents > CARD_LIMIT_CENTS][:4]
    too_heavy = [order for order in valid if order.sku.startswith(HEAVY) and order.quantity > MOST_IN_A_PARCEL][:5]
    limited = [order for order in valid if order.sku == "LIMITED-PENNY"][:9]
    chosen = {order.order_id: order for order in (*valid[:14], *declined, *too_heavy, *limited)}
    path = folder / "of-every-kind.jsonl"
    path.write_text("".join(json.dumps(asdict(order)) + "\n" for order in chosen.values()), encoding="utf-8")
    return path


def run(capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[int, dict[str, Any]]:
    """Run the demo; return its exit code and the one object it printed."""
    code = run_demo(DemoOptions(as_json=True, **options))
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 1, printed
    return code, json.loads(printed.out)


def assert_adds_up(code: int, result: dict[str, Any]) -> None:
    """Check what holds for every run."""
    assert (code, result["lost"], result["applied_twice"], result["ghosts"]) == (0, 0, 0, 0), result
    assert result["placed"] == result["committed"] + result["rolled_back"]
    assert result["published"] == result["messages"]
    assert sum(result["orders"].values()) == result["committed"]
    kept = result["charged_cents"] - result["refunded_cents"]
    assert kept == result["shipped_cents"] + result["unsettled_cents"]
    assert result["stock_consistent"]
    assert result["garbled"] == 0


def assert_suffered(result: dict[str, Any]) -> None:
    """Check that each kind of mischief has left its trace, and none but those that were planned."""
    assert result["duplicated"] > 0
    assert result["suppressed"] > 0
    assert result["retried"] > 0
    assert result["rolled_back"] == 3
    assert 0 < result["dead_lettered"] <= 3
    assert result["unexpectedly_dead"] == 0
    assert result["crashes"] > 0
    assert result["kills"] == 2


def test_every_order_comes_to_its_end_once(orders_150: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = run(capsys, orders=orders_150)

    assert_adds_up(code, result)
    assert (result["placed"], result["refused"]) == (147, 3)
    assert set(result["orders"]) == {"shipped", "cancelled"}
    assert (result["dead_lettered"], result["held"], result["unsettled_cents"]) == (0, 0, 0)
    assert {name: type(result[name]) for name in PROMISED} == PROMISED


@pytest.mark.fault
@pytest.mark.parametrize("seed", [1, 7][: effort.of(2, 1)])
def test_chaos_loses_nothing_and_applies_nothing_twice(
    orders_150: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    code, result = run(capsys, orders=first_lines(orders_150, effort.of(150, 70)), chaos=True, seed=seed)

    assert_adds_up(code, result)
    assert_suffered(result)


@pytest.mark.parametrize("saga", ["orchestrated", "choreographed"])
def test_every_saga_is_completed_or_compensated(tmp_path: Path, capsys: pytest.CaptureFixture[str], saga: str) -> None:
    """The other one is choreographed as the demo always is, and suffers above."""
    code, result = run(capsys, orders=of_every_kind(tmp_path), saga=saga, chaos=saga == "orchestrated")

    assert_adds_up(code, result)
    ends = result["sagas"]
    assert (ends["completed"] + ends["compensated"], ends["unfinished"]) == (result["committed"], 0)
    assert ends["completed"] >= 10
    assert ends["compensated"] >= 8
    assert (result["dead_lettered"], result["held"], result["saga"]) == (0, 0, saga)
    if saga == "orchestrated":
        assert (result["crashes"], result["kills"]) == (3, 2)
        assert result["retried"] > 0


@pytest.mark.skipif(not effort.THOROUGH, reason="minutes; PILLARBOX_THOROUGH=1 runs it")
@pytest.mark.fault
@pytest.mark.parametrize("saga", ["orchestrated", "choreographed"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_chaos_leaves_no_saga_half_done_on_postgresql(
    capsys: pytest.CaptureFixture[str], postgresql_url: str, saga: str, seed: int
) -> None:
    code, result = run(capsys, store=postgresql_url, saga=saga, chaos=True, seed=seed)

    assert_adds_up(code, result)
    assert result["sagas"]["unfinished"] == 0
    assert (result["crashes"], result["kills"]) == (3, 2)


def test_a_rolled_back_order_leaves_no_trace_and_every_command_that_is_recommended_can_be_run(
    orders_150: Path, capsys: pytest.CaptureFixture[str], sqlite_url: str
) -> None:
    few = first_lines(orders_150, 20)
    ids = [order.order_id for order in load_orders(few).valid]
    rolled_back = plan_mischief(ids, seed=3).rolled_back

    code, result = run(capsys, orders=few, store=sqlite_url, chaos=True, seed=3)

    assert_adds_up(code, result)
    assert result["rolled_back"] == len(rolled_back) > 0
    engine = create_engine(sqlite_url, poolclass=NullPool)
    with engine.connect() as connection:
        keys = {
            key
            for table in (tables.outbox, tables.queue, tables.held, tables.dead_letters)
            for key in connection.execute(select(table.c.message_key)).scalars()
        }
    assert not keys & rolled_back
    for step in result["next"]:
        program, *arguments = shlex.split(step)
        answer = CliRunner().invoke(commands, arguments)
        assert (program, answer.exit_code) == ("pillarbox", 0), (step, answer.output)


def test_the_demo_runs_on_postgresql(orders_150: Path, capsys: pytest.CaptureFixture[str], postgresql_url: str) -> None:
    code, result = run(capsys, orders=first_lines(orders_150, effort.of(150, 30)), store=postgresql_url)

    assert_adds_up(code, result)
    assert result["dead_lettered"] == 0


@pytest.mark.fault
def test_chaos_on_postgresql_and_a_second_run_that_finds_what_it_left(
    orders_150: Path, capsys: pytest.CaptureFixture[str], postgresql_url: str
) -> None:
    code, result = run(capsys, orders=first_lines(orders_150, 60), store=postgresql_url, chaos=True)
    assert_adds_up(code, result)
    assert_suffered(result)
    few = first_lines(orders_150, 20)

    code, result = run(capsys, orders=few, store=postgresql_url)

    assert_adds_up(code, result)
    assert (result["placed"], result["dead_lettered"], result["held"]) == (20, 0, 0)


def test_a_csv_file_is_placed_and_a_table_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "orders.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["order_id", "customer", "priority", "sku", "quantity", "total_cents"])
        writer.writerows([f"c-{number}", "Ольга", "ECONOMY", "LAMP", 1, 1_000 + number] for number in range(10))
        writer.writerow(["c-10", "Ada", "ECONOMY", "LAMP", 1, 500_000])
        writer.writerow(["", "nobody", "ECONOMY", "LAMP", 1, 1_000])

    code = run_demo(DemoOptions(orders=path))

    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "no order_id 1" in printed
    assert "1 cancelled, 10 shipped" in printed
    assert "pillarbox health --store sqlite:///" in printed


@pytest.mark.parametrize("content", ["", "nonsense\n", "\x00\x01\x02" * 1_000])
def test_a_file_without_orders_ends_the_demo_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_text(content)

    code = run_demo(DemoOptions(orders=path, as_json=True))

    printed = capsys.readouterr()
    assert (code, printed.err) == (2, "")
    assert "holds no valid order" in json.loads(printed.out)["error"]["message"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"orders": Path("nowhere.jsonl")}, "cannot be read"),
        ({"store": "memory://"}, "process of its own"),
        ({"store": "sqlite://"}, "process of its own"),
        ({"store": "nonsense"}, "is no URL"),
        ({"store": "oracle://somewhere"}, "oracle"),
        ({"store": "sqlite:////nowhere/at/all.db"}, "unable to open"),
        ({"broker": "memory://", "chaos": True}, "leave --broker out"),
        ({"broker": "pigeon://"}, "pigeon"),
    ],
)
def test_what_cannot_begin_says_why(
    capsys: pytest.CaptureFixture[str], options: dict[str, Any], complaint: str
) -> None:
    code = run_demo(DemoOptions(**options))

    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert complaint in printed.err


def test_a_store_that_others_use_is_left_alone(sqlite_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    engine = create_engine(sqlite_url, poolclass=NullPool)
    with engine.begin() as connection:
        tables.metadata.create_all(connection)
        row = {"consumer": "shop/reserve-stock", "channels": "topic:order", "registered_at": 0}
        connection.execute(tables.consumers.insert(), row)

    code = run_demo(DemoOptions(store=sqlite_url))

    assert code == 2
    assert "shop/reserve-stock" in capsys.readouterr().err
    with engine.connect() as connection:
        assert connection.execute(select(tables.consumers.c.consumer)).scalars().all() == ["shop/reserve-stock"]


def test_the_same_seed_plans_the_same_mischief_and_the_worker_reads_it() -> None:
    ids = [order.order_id for order in load_orders(None).valid]

    one, same, other = plan_mischief(ids, seed=1), plan_mischief(reversed(ids), seed=1), plan_mischief(ids, seed=2)

    assert one == same == Mischief.from_json(one.to_json())
    assert one != other
    assert len(one.poisoned) == 12


def test_a_broker_in_the_memory_of_the_worker_carries_the_messages(
    orders_150: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = first_lines(orders_150, 20)

    code, result = run(capsys, orders=few, broker="memory://")

    assert_adds_up(code, result)


def test_an_error_among_others_that_nobody_expects_is_not_explained_away() -> None:
    expected = WorkerFailedError("gone")

    assert first_of(ExceptionGroup("", [ExceptionGroup("", [expected])])) is expected
    assert first_of(ExceptionGroup("", [expected, KeyError()])) is None


async def test_the_books_show_what_is_lost_applied_twice_or_kept(orders_150: Path, sqlite_url: str) -> None:
    found = Orders(valid=load_orders(first_lines(orders_150, 20)).valid, refused=())
    folder = orders_150.parent
    await play(DemoOptions(store=sqlite_url), found, store=sqlite_url, folder=folder)
    mails = mails_in(folder / "mails.jsonl")
    box = open_shop(sqlite_url, None, folder=folder, mischief=NONE)

    async with box, box.transaction() as tx:
        before = await reconcile(tx, box.consumers(), mails=mails, notifier=NOTIFIER)
        await tx.execute(text("DELETE FROM demo_effects WHERE number = 1"))
        await tx.execute(
            text(
                "INSERT INTO demo_effects SELECT 9999, consumer, message_id, message_type, order_id"
                " FROM demo_effects WHERE number = 2"
            )
        )
        await tx.execute(text("UPDATE demo_payments SET amount_cents = amount_cents + 1 WHERE payment_id = 1"))
        await tx.execute(text("UPDATE demo_stock SET on_hand = on_hand - 1"))
        after = await reconcile(tx, box.consumers(), mails=[*mails[1:], mails[1]], notifier=NOTIFIER)

    assert (before.lost, before.applied_twice, before.money.adds_up, before.stock_consistent) == (0, 0, True, True)
    assert (before.endings["unfinished"], after.endings["unfinished"]) == (0, 1)
    assert (after.lost, after.applied_twice, after.money.adds_up, after.stock_consistent) == (2, 2, False, False)
