"""``pillarbox demo``: order fulfilment, reconciled at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from pillarbox.cli.output import wants_json
from pillarbox.cli.places import json_option


@click.command()
@click.option("--store", metavar="URL", help="Where its data lives; left out: an SQLite file of its own.")
@click.option("--broker", metavar="URL", help="What carries its messages; left out: the store.")
@click.option(
    "--orders",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="Orders as JSON lines or CSV; left out: those that come with Pillarbox.",
)
@click.option("--chaos", is_flag=True, help="With duplicates, failures, poison messages and crashes.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the chaos.")
@click.option(
    "--saga",
    type=click.Choice(["choreographed", "orchestrated"]),
    help="Fulfil 300 of the orders, or those given, as sagas: each is completed or compensated.",
)
@json_option
def demo(
    *,
    store: str | None,
    broker: str | None,
    orders: Path | None,
    chaos: bool,
    seed: int,
    saga: Literal["choreographed", "orchestrated"] | None,
) -> None:
    """Run an order fulfilment and reconcile it.

    Five services, a thousand orders; at the end it is counted that none was lost or handled twice.
    """
    from pillarbox.demo import DemoOptions, run_demo

    options = DemoOptions(
        store=store, broker=broker, orders=orders, chaos=chaos, seed=seed, as_json=wants_json(), saga=saga
    )
    raise click.exceptions.Exit(run_demo(options))
