"""Says how a run went: a table for people, or one JSON object for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import make_url

from pillarbox.demo.endings import Ending
from pillarbox.demo.run import Outcome

Row = tuple[str, object, str]


def as_json(outcome: Outcome, *, store: str, folder: Path) -> str:
    """Return the outcome as one JSON object."""
    books = outcome.books
    return json.dumps(
        {
            "placed": outcome.placed,
            "refused": len(outcome.refused),
            "rolled_back": outcome.rolled_back,
            "committed": books.committed,
            "messages": books.messages,
            "published": books.published,
            "duplicated": outcome.duplicated,
            "delivered": books.handled + outcome.counted.suppressed + len(books.dead) + books.held,
            "handled": books.handled,
            "suppressed": outcome.counted.suppressed,
            "retried": outcome.counted.retried,
            "dead_lettered": len(books.dead),
            "unexpectedly_dead": outcome.unexpectedly_dead,
            "held": books.held,
            "crashes": outcome.crashes,
            "kills": outcome.kills,
            "lost": books.lost,
            "ghosts": books.ghosts,
            "applied_twice": books.applied_twice,
            "garbled": books.garbled,
            "orders": dict(books.statuses),
            "saga": outcome.saga,
            "sagas": dict(books.endings),
            "charged_cents": books.money.charged,
            "refunded_cents": books.money.refunded,
            "shipped_cents": books.money.shipped,
            "unsettled_cents": books.money.unsettled,
            "money_adds_up": books.money.adds_up,
            "stock_consistent": books.stock_consistent,
            "refusals": _refusals(outcome),
            "troubles": outcome.counted.troubles,
            "stalled": outcome.stalled,
            "reconciled": outcome.is_reconciled,
            "seconds": round(outcome.seconds, 3),
            "store": safe_url(store),
            "folder": str(folder),
            "next": list(next_steps(outcome, store=store)),
        },
        ensure_ascii=False,
    )


def print_table(outcome: Outcome, *, store: str, folder: Path) -> None:
    """Print the outcome for people, and what to look at next."""
    console = Console(highlight=False)
    table = Table(title="Order fulfilment, reconciled", title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("", style="dim", overflow="fold")
    for section in (_orders(outcome), _sagas(outcome), _messages(outcome), _money(outcome), _verdict(outcome)):
        for name, value, remark in section:
            table.add_row(name, str(value), remark)
        table.add_section()
    console.print(table)
    console.print()
    if outcome.is_reconciled:
        console.print("[green]Nothing lost, nothing applied twice, the money adds up.[/green]")
    else:
        console.print("[red]This does not add up.[/red]")
    console.print(f"Store:  {safe_url(store)}\nFolder: {folder} (mails, tally, worker's log)", soft_wrap=True)
    console.print("Look at:")
    for step in next_steps(outcome, store=store):
        console.print(f"  {step}", soft_wrap=True, markup=False)


def next_steps(outcome: Outcome, *, store: str) -> Iterator[str]:
    """Yield commands that show what the run has left."""
    place = f"--store {safe_url(store)}"
    if outcome.books.dead:
        yield f"pillarbox dead-letters list {place}"
    yield f"pillarbox health {place}"
    if outcome.books.held:
        yield f"pillarbox held list {place}"
    yield f"pillarbox consumers {place}"
    if not outcome.mischief.duplicates:
        yield "pillarbox demo --chaos" + (f" --saga {outcome.saga}" if outcome.saga else "")


def safe_url(store: str) -> str:
    """Return the URL of a store without its password."""
    return make_url(store).render_as_string(hide_password=True)


def _orders(outcome: Outcome) -> Iterator[Row]:
    yield "orders placed", outcome.placed, "each in a transaction with its event"
    yield "refused", len(outcome.refused), ", ".join(f"{kind} {count}" for kind, count in _refusals(outcome).items())
    yield "rolled back", outcome.rolled_back, "on purpose, after everything was written"
    yield "committed", outcome.books.committed, ", ".join(f"{n} {s}" for s, n in sorted(outcome.books.statuses.items()))


def _sagas(outcome: Outcome) -> Iterator[Row]:
    if outcome.saga is None:
        return
    ends = outcome.books.endings
    yield f"sagas, {outcome.saga}", sum(ends.values()), "one for each order"
    yield "completed", ends[Ending.COMPLETED], "paid, reserved and shipped, each once"
    yield "compensated", ends[Ending.COMPENSATED], "every cent and piece is back"
    yield "unfinished", ends[Ending.UNFINISHED], ""


def _messages(outcome: Outcome) -> Iterator[Row]:
    books, counted = outcome.books, outcome.counted
    yield "messages published", books.published, f"of {books.messages} committed, {outcome.duplicated} sent twice"
    yield "delivered", books.handled + counted.suppressed + len(books.dead) + books.held, f"{books.handled} handled"
    yield "suppressed", counted.suppressed, "duplicates that changed nothing"
    yield "retried", counted.retried, "messages that had another attempt"
    unexpected = f"{outcome.unexpectedly_dead} of them not planned" if outcome.unexpectedly_dead else "all planned"
    yield "dead-lettered", len(books.dead), unexpected if books.dead else ""
    yield "held", books.held, "behind a dead letter of their order"
    yield "worker ended", outcome.crashes + outcome.kills, f"{outcome.crashes} crashes, {outcome.kills} kill -9"


def _money(outcome: Outcome) -> Iterator[Row]:
    money = outcome.books.money
    yield "charged", _euros(money.charged), ""
    yield "refunded", _euros(money.refunded), "sold out, or too heavy to ship, after the payment"
    yield "shipped", _euros(money.shipped), "what the shipped orders cost"
    yield "unsettled", _euros(money.unsettled), "orders that stand behind a dead letter"
    verdict = "charged - refunded = shipped + unsettled" if money.adds_up else "does NOT add up"
    yield "difference", _euros(money.charged - money.refunded - money.shipped - money.unsettled), verdict
    yield (
        "stock",
        "consistent" if outcome.books.stock_consistent else "NOT consistent",
        "shelf + reserved = delivered",
    )


def _verdict(outcome: Outcome) -> Iterator[Row]:
    books = outcome.books
    yield "lost", books.lost, "messages without effect, dead letter or place in holding"
    yield "applied twice", books.applied_twice, ""
    if books.ghosts:
        yield "ghosts", books.ghosts, "effects of orders that were never committed"
    if books.garbled:
        yield "garbled", books.garbled, "names that did not arrive as they were written"
    if outcome.stalled:
        yield "given up", "yes", "messages were pending and nothing moved any more"
    yield "seconds", f"{outcome.seconds:.1f}", ""


def _refusals(outcome: Outcome) -> dict[str, int]:
    return dict(Counter(refusal.kind for refusal in outcome.refused).most_common())


def _euros(cents: int) -> str:
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100:,}.{abs(cents) % 100:02}"
