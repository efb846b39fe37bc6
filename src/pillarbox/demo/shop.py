"""The box of the demo: five services, one store, one broker."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pillarbox import Pillarbox, RelaySettings, Settings
from pillarbox.demo.instrumented import BOX_NAME, instrumented
from pillarbox.demo.mischief import Mischief, OnceOnly
from pillarbox.demo.production import FULFILMENT, Production
from pillarbox.demo.services.gateway import FileMailGateway
from pillarbox.demo.services.notification import MailGateway
from pillarbox.demo.tally import Tally

LEASE = timedelta(seconds=2)
"""Short, so that a worker that was killed is replaced while somebody watches."""


def open_shop(
    store: str, broker: str | None, *, folder: Path, mischief: Mischief, production: Production = FULFILMENT
) -> Pillarbox:
    """Put the box together; connects to nothing.

    Args:
        store: a URL.
        broker: a URL; ``None`` lets the store carry the messages.
        folder: where the mails, the tally and the marks of what happens once are kept.
        mischief: what is to go wrong.
        production: who takes part.
    """
    box = Pillarbox(
        BOX_NAME,
        store=store,
        broker=broker,
        settings=Settings(relay=RelaySettings(lease=LEASE), migrate_on_open=True, drain_within=timedelta(seconds=10)),
    )
    once = OnceOnly(folder)
    for service in production.services:
        box.include(instrumented(service, mischief=mischief, once=once))
    if production.saga is not None:
        box.include(production.saga)
    box.provide(MailGateway, lambda: FileMailGateway(folder / "mails.jsonl"))
    box.observe(Tally(folder / "tally.jsonl"))
    return box
